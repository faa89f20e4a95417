// Draws every <canvas data-mesh> of the page with three.js. One renderer draws all views, and each
// image is copied into the 2D context of its canvas: browsers allow about 16 WebGL contexts, and a
// report has more views. Views in one .scene share a camera. A mesh is decoded when its canvas is
// nearly visible. Until it is drawn, and without WebGL, the page shows a picture of it.
"use strict";
(() => {
  const FIELD_OF_VIEW = 30, DISTANCE = 1 / Math.sin(FIELD_OF_VIEW * Math.PI / 360);
  const START = { azimuth: 35 * Math.PI / 180, elevation: 25 * Math.PI / 180 };
  const [MOST_PIXELS_PER_POINT, CLOSEST, FARTHEST, FARTHEST_TARGET] = [2, 0.3, 20, 2];
  const options = { colors: true, wireframe: false, "z-up": false, linked: true };
  const json = (id) => JSON.parse(document.getElementById(id).textContent);
  const settings = json("viewer-settings");

  // ---- drawing ----

  THREE.ColorManagement.enabled = false; // light and color as in the pictures of rendering.py

  function createRenderer() {
    const canvas = document.createElement("canvas");
    const context = canvas.getContext("webgl2", { antialias: true, alpha: true });
    if (!context) return null;
    const renderer = new THREE.WebGLRenderer({ canvas, context, alpha: true });
    renderer.outputColorSpace = THREE.LinearSRGBColorSpace;
    renderer.setClearColor(0, 0);
    canvas.addEventListener("webglcontextrestored", requestAll);
    return renderer;
  }

  // Lights turn with the camera. Full white light has the intensity pi.
  function createCamera() {
    const camera = new THREE.PerspectiveCamera(FIELD_OF_VIEW);
    camera.add(new THREE.AmbientLight(0xffffff, 0.30 * Math.PI));
    for (const [share, place] of [[0.50, [-0.5, 0.7, 0.5]], [0.25, [0, 0, 1]]]) {
      const light = new THREE.DirectionalLight(0xffffff, share * Math.PI);
      light.position.set(...place);
      camera.add(light, light.target);
    }
    placeAtStart(camera);
    return camera;
  }

  function placeAtStart(camera) {
    const { azimuth, elevation } = START, flat = DISTANCE * Math.cos(elevation);
    const height = DISTANCE * Math.sin(elevation);
    camera.position.set(flat * Math.sin(azimuth), height, flat * Math.cos(azimuth));
    camera.lookAt(0, 0, 0);
  }

  // The sphere around the frame gets radius 1, so that one camera suits all scenes.
  function createContent(mesh, [x, y, z, radius], kind) {
    const geometry = new THREE.BufferGeometry();
    geometry.setAttribute("position", new THREE.BufferAttribute(mesh.positions, 3));
    geometry.setAttribute("normal", new THREE.BufferAttribute(mesh.normals, 3, true));
    if (mesh.colors) geometry.setAttribute("color", new THREE.BufferAttribute(mesh.colors, 3, true));
    const surface = new THREE.MeshLambertMaterial({
      side: THREE.DoubleSide, polygonOffset: true, polygonOffsetFactor: 1, polygonOffsetUnits: 1,
    });
    const edges = new THREE.MeshBasicMaterial({
      color: 0, wireframe: true, transparent: true,
      opacity: Math.min(0.5, 35 / Math.sqrt(mesh.positions.length / 9)), // many edges are close
    });
    const model = new THREE.Group();
    model.add(new THREE.Mesh(geometry, surface), new THREE.Mesh(geometry, edges));
    for (const part of model.children) part.position.set(-x, -y, -z);
    model.scale.setScalar(1 / radius);
    const world = new THREE.Scene();
    world.add(model);
    const apply = () => {
      const colored = Boolean(mesh.colors) && options.colors;
      if (surface.vertexColors !== colored) surface.needsUpdate = true;
      surface.vertexColors = colored;
      if (colored) surface.color.setRGB(1, 1, 1);
      else surface.color.setRGB(...settings.albedo[kind]);
      model.children[1].visible = options.wireframe;
      model.rotation.x = options["z-up"] ? -Math.PI / 2 : 0;
    };
    return { world, apply };
  }

  function draw(view, width, height) {
    const { camera } = view.scene, aspect = width / height;
    const tangent = Math.tan(FIELD_OF_VIEW * Math.PI / 360) / Math.min(1, aspect);
    camera.fov = 360 / Math.PI * Math.atan(tangent);
    camera.aspect = aspect;
    const distance = camera.position.length();
    camera.near = Math.max(0.01, distance - 1.5);
    camera.far = distance + 1.5;
    camera.updateProjectionMatrix();
    const target = renderer.domElement;
    if (target.width < width || target.height < height) {
      const size = [Math.max(target.width, width), Math.max(target.height, height)];
      renderer.setSize(...size, false);
    }
    renderer.setViewport(0, 0, width, height);
    view.content.apply();
    view.content.world.add(camera);
    renderer.render(view.content.world, camera);
    view.context.clearRect(0, 0, width, height);
    const top = target.height - height;
    view.context.drawImage(target, 0, top, width, height, 0, 0, width, height);
    view.canvas.parentElement.classList.add("drawn");
  }

  // ---- views ----

  const views = new Map(); // canvas -> view
  const scenes = [];
  let scheduled = false, renderer = null;

  function request(view) {
    view.stale = true;
    if (scheduled) return;
    scheduled = true;
    requestAnimationFrame(() => {
      scheduled = false;
      for (const other of views.values()) if (other.stale && other.visible) paint(other);
    });
  }

  function requestAll() {
    for (const view of views.values()) request(view);
  }

  function paint(view) {
    const { canvas } = view, ratio = Math.min(window.devicePixelRatio || 1, MOST_PIXELS_PER_POINT);
    if (!view.content) return load(view);
    const width = Math.round(canvas.clientWidth * ratio);
    const height = Math.round(canvas.clientHeight * ratio);
    if (!width || !height || renderer.getContext().isContextLost()) return;
    if (canvas.width !== width) canvas.width = width;
    if (canvas.height !== height) canvas.height = height;
    draw(view, width, height);
    view.stale = false;
  }

  async function load(view) {
    if (view.loading) return;
    view.loading = true;
    const { canvas, scene } = view;
    try {
      const mesh = await decodeMesh(json(canvas.dataset.mesh));
      view.content = createContent(mesh, scene.frame, canvas.dataset.kind);
      request(view);
    } catch (error) {
      withdraw(canvas);
      showNotice(`A mesh cannot be turned: ${error.message}`);
    }
  }

  // Leaves the picture of the mesh.
  function withdraw(canvas) {
    views.delete(canvas);
    canvas.remove();
  }

  function showNotice(text) {
    const notice = document.querySelector(".notice");
    notice.textContent = text;
    notice.hidden = false;
  }

  // ---- moving the camera ----

  function moved(scene) {
    scene.views.forEach(request);
    if (!options.linked) return;
    for (const other of scenes) {
      if (other === scene || other.group !== scene.group) continue;
      other.target.copy(scene.target);
      other.camera.position.copy(scene.camera.position);
      other.camera.lookAt(other.target);
      other.views.forEach(request);
    }
  }

  function reset(scene) {
    placeAtStart(scene.camera);
    scene.target.set(0, 0, 0);
    scene.views.forEach(request);
  }

  function createControls(canvas, scene) {
    // Without focus the wheel scrolls the page. This listener comes before that of the controls.
    canvas.addEventListener("wheel", (event) => {
      if (document.activeElement !== canvas && !event.ctrlKey) event.stopImmediatePropagation();
    });
    const controls = new THREE.OrbitControls(scene.camera, canvas);
    canvas.style.touchAction = ""; // style.css lets a finger scroll the page
    controls.target = scene.target;
    controls.minDistance = CLOSEST;
    controls.maxDistance = FARTHEST;
    controls.maxTargetRadius = FARTHEST_TARGET;
    controls.addEventListener("change", () => moved(scene));
    return controls;
  }

  function listenToKeys(canvas, scene, controls) {
    const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    canvas.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.altKey || event.metaKey) return;
      const arrow = arrows[event.key], step = 0.05 * canvas.clientHeight;
      if (arrow && event.shiftKey) controls.pan(step * arrow[0], step * arrow[1]);
      else if (arrow && arrow[0]) controls.rotateLeft(0.15 * arrow[0]);
      else if (arrow) controls.rotateUp(0.15 * arrow[1]);
      else if (event.key === "+" || event.key === "=") controls.dollyIn(1 / 1.15);
      else if (event.key === "-") controls.dollyIn(1.15);
      else if (event.key === "0") { reset(scene); moved(scene); }
      else if (event.key === "Escape") canvas.blur();
      else return;
      event.preventDefault();
    });
  }

  // ---- start ----

  const nearby = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      const view = views.get(target);
      if (!view) continue;
      view.visible = isIntersecting;
      if (isIntersecting && view.stale) request(view);
    }
  }, { rootMargin: "300px" });
  const resized = new ResizeObserver((entries) => {
    for (const { target } of entries) if (views.has(target)) request(views.get(target));
  });

  function startViews() {
    for (const element of document.querySelectorAll(".scene")) {
      const frame = element.dataset.frame.split(" ").map(Number);
      const scene = { frame, camera: createCamera(), target: new THREE.Vector3(), views: [] };
      scene.group = element.closest(".meshes") ?? element; // scenes that a switch links
      for (const canvas of element.querySelectorAll("canvas[data-mesh]")) {
        const view = { canvas, scene, context: canvas.getContext("2d"), stale: true };
        scene.views.push(view);
        views.set(canvas, view);
        listenToKeys(canvas, scene, createControls(canvas, scene));
        nearby.observe(canvas);
        resized.observe(canvas);
      }
      scenes.push(scene);
    }
  }

  function startSwitches() {
    for (const box of document.querySelectorAll("input[data-toggle]")) {
      const apply = () => { options[box.dataset.toggle] = box.checked; requestAll(); };
      box.addEventListener("change", apply);
      apply(); // a browser may restore the state of an earlier visit
    }
    for (const button of document.querySelectorAll("button[data-reset]")) {
      button.addEventListener("click", () => scenes.forEach(reset));
    }
  }

  // Shows only the cases of one category. A group without any is hidden.
  function startFilter(select) {
    const apply = () => {
      for (const item of document.querySelectorAll(".case")) {
        item.hidden = select.value !== "" && item.dataset.category !== select.value;
      }
      for (const group of document.querySelectorAll(".group")) {
        group.hidden = !group.querySelector(".case:not([hidden])");
      }
    };
    select.addEventListener("change", apply);
    apply();
  }

  try {
    renderer = createRenderer();
  } catch (error) {
    console.error(error);
  }
  if (renderer) {
    startViews();
    startSwitches();
  } else {
    document.querySelectorAll("canvas[data-mesh]").forEach(withdraw);
    for (const part of document.querySelectorAll(".controls [data-needs-3d]")) part.hidden = true;
    showNotice("This browser has no WebGL 2, so the meshes are shown as pictures.");
  }
  document.querySelectorAll("select[data-filter]").forEach(startFilter);
})();
