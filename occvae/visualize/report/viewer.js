// Draws every <canvas data-mesh> of the page. One WebGL 2 context draws all views, and each image
// is copied into the 2D context of its canvas: browsers allow about 16 WebGL contexts, and a report
// has more views. Views in one .scene share a camera. A mesh is decoded when its canvas is nearly
// visible.
"use strict";
(() => {
  const FIELD_OF_VIEW = 30 * Math.PI / 180;
  const START = { yaw: 35 * Math.PI / 180, pitch: 25 * Math.PI / 180, zoom: 1, pan: [0, 0] };
  const BASE_COLORS = { truth: [0.80, 0.78, 0.74], prediction: [0.50, 0.67, 0.85] };
  const options = { error: true, wireframe: false, "z-up": false };
  const json = (id) => JSON.parse(document.getElementById(id).textContent);
  const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

  // ---- drawing ----

  const VERTEX_SHADER = `#version 300 es
    layout(location = 0) in vec3 position;
    layout(location = 1) in vec3 normal;
    layout(location = 2) in float intensity;
    uniform mat4 toView, toClip;
    out vec3 viewPosition, viewNormal, barycentric;
    out float shade;
    void main() {
      vec4 point = toView * vec4(position, 1.0);
      viewPosition = point.xyz;
      viewNormal = mat3(toView) * normal;
      shade = intensity;
      int corner = gl_VertexID % 3;
      barycentric = vec3(corner == 0, corner == 1, corner == 2);
      gl_Position = toClip * point;
    }`;
  const FRAGMENT_SHADER = `#version 300 es
    precision highp float;
    in vec3 viewPosition, viewNormal, barycentric;
    in float shade;
    uniform vec3 base, palette[5];
    uniform bool colored, wireframe;
    out vec4 color;
    void main() {
      vec3 toEye = -normalize(viewPosition), normal = normalize(viewNormal);
      normal *= dot(normal, toEye) < 0.0 ? -1.0 : 1.0; // many files have inward faces
      float key = max(dot(normal, normalize(vec3(0.5, 0.8, 0.6))), 0.0);
      float light = 0.36 + 0.46 * key + 0.24 * max(dot(normal, toEye), 0.0);
      float place = clamp(shade, 0.0, 1.0) * 4.0;
      int stop = min(int(place), 3);
      vec3 surface = colored ? mix(palette[stop], palette[stop + 1], place - float(stop)) : base;
      if (wireframe) {
        vec3 change = fwidth(barycentric), distances = barycentric / change;
        float edge = min(min(distances.x, distances.y), distances.z);
        float small = max(max(change.x, change.y), change.z); // about 1 for a triangle of one pixel
        float darkness = 0.65 * (1.0 - smoothstep(0.1, 0.6, small));
        surface *= 1.0 - darkness * (1.0 - smoothstep(0.4, 1.4, edge));
      }
      color = vec4(surface * light, 1.0);
    }`;

  function createRenderer() {
    const canvas = document.createElement("canvas");
    const gl = canvas.getContext("webgl2", { antialias: true, alpha: true });
    if (!gl) return null;
    let uniforms = {}, buffers = new WeakMap();

    function compile(type, source) {
      const shader = gl.createShader(type);
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      return shader;
    }

    function prepare() {
      const program = gl.createProgram();
      gl.attachShader(program, compile(gl.VERTEX_SHADER, VERTEX_SHADER));
      gl.attachShader(program, compile(gl.FRAGMENT_SHADER, FRAGMENT_SHADER));
      gl.linkProgram(program);
      if (!gl.getProgramParameter(program, gl.LINK_STATUS) && !gl.isContextLost()) {
        throw new Error(`shaders: ${gl.getProgramInfoLog(program)}`);
      }
      gl.useProgram(program);
      gl.enable(gl.DEPTH_TEST);
      buffers = new WeakMap();
      for (const name of ["toView", "toClip", "base", "palette", "colored", "wireframe"]) {
        uniforms[name] = gl.getUniformLocation(program, name);
      }
      const palette = json("viewer-settings").palette.flat().map((value) => value / 255);
      gl.uniform3fv(uniforms.palette, palette);
    }

    function bind(mesh) {
      if (buffers.has(mesh)) return gl.bindVertexArray(buffers.get(mesh));
      const array = gl.createVertexArray();
      gl.bindVertexArray(array);
      gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
      gl.bufferData(gl.ARRAY_BUFFER, mesh.vertices, gl.STATIC_DRAW);
      gl.vertexAttribPointer(0, 3, gl.FLOAT, false, mesh.stride, 0);
      gl.vertexAttribPointer(1, 3, gl.BYTE, true, mesh.stride, 12);
      gl.vertexAttribPointer(2, 1, gl.UNSIGNED_BYTE, true, mesh.stride, 15);
      for (const place of [0, 1, 2]) gl.enableVertexAttribArray(place);
      buffers.set(mesh, array);
    }

    function draw(target, mesh, base, matrices) {
      const { width, height } = target.canvas;
      if (canvas.width < width) canvas.width = width;
      if (canvas.height < height) canvas.height = height;
      gl.viewport(0, 0, width, height);
      gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
      bind(mesh);
      gl.uniformMatrix4fv(uniforms.toView, false, matrices.toView);
      gl.uniformMatrix4fv(uniforms.toClip, false, matrices.toClip);
      gl.uniform3fv(uniforms.base, base);
      gl.uniform1i(uniforms.colored, mesh.colored && options.error);
      gl.uniform1i(uniforms.wireframe, options.wireframe);
      gl.drawArrays(gl.TRIANGLES, 0, mesh.count);
      target.clearRect(0, 0, width, height);
      target.drawImage(canvas, 0, canvas.height - height, width, height, 0, 0, width, height);
    }

    prepare();
    canvas.addEventListener("webglcontextlost", (event) => event.preventDefault());
    canvas.addEventListener("webglcontextrestored", () => { prepare(); requestAll(); });
    return { draw };
  }

  // Returns column-major matrices of a camera that orbits the center of the scene's frame.
  function cameraMatrices(scene, aspect) {
    const { yaw, pitch, zoom, pan } = scene.camera, [x, y, z, radius] = scene.frame;
    const [cy, sy, cp, sp] = [Math.cos(yaw), Math.sin(yaw), Math.cos(pitch), Math.sin(pitch)];
    let rows = [[cy, 0, -sy], [-sp * sy, cp, -sp * cy], [cp * sy, sp, cp * cy]];
    if (options["z-up"]) rows = rows.map(([a, b, c]) => [a, -c, b]); // (x, y, z) becomes (x, z, -y)
    // The frame's sphere fills the narrower side of the view. Zoom narrows the field of view.
    const distance = radius / Math.sin(FIELD_OF_VIEW / 2);
    const tangent = Math.tan(FIELD_OF_VIEW / 2) / Math.min(1, aspect) / zoom;
    const moved = rows.map((row) => -(row[0] * x + row[1] * y + row[2] * z));
    moved[0] += pan[0] * radius;
    moved[1] += pan[1] * radius;
    moved[2] -= distance;
    const toView = [0, 1, 2].flatMap((k) => [...rows.map((row) => row[k]), 0]);
    const near = distance - 1.5 * radius, far = distance + 1.5 * radius;
    const toClip = [
      1 / (tangent * aspect), 0, 0, 0, 0, 1 / tangent, 0, 0,
      0, 0, (near + far) / (near - far), -1, 0, 0, 2 * near * far / (near - far), 0,
    ];
    return { toView: [...toView, ...moved, 1], toClip };
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
    const { canvas } = view, ratio = Math.min(window.devicePixelRatio || 1, 2);
    if (!view.mesh) return load(view);
    const width = Math.round(canvas.clientWidth * ratio);
    const height = Math.round(canvas.clientHeight * ratio);
    if (!width || !height) return;
    if (canvas.width !== width) canvas.width = width;
    if (canvas.height !== height) canvas.height = height;
    const matrices = cameraMatrices(view.scene, width / height);
    renderer.draw(view.context, view.mesh, BASE_COLORS[canvas.dataset.kind], matrices);
    view.stale = false;
  }

  async function load(view) {
    if (view.loading) return;
    view.loading = true;
    try {
      view.mesh = await decodeMesh(json(view.canvas.dataset.mesh));
      request(view);
    } catch (error) {
      replaceWithText(view.canvas, `This mesh cannot be shown: ${error.message}`);
    }
  }

  function replaceWithText(canvas, text) {
    const message = document.createElement("p");
    message.className = "absent";
    message.textContent = text;
    canvas.replaceWith(message);
    views.delete(canvas);
  }

  // ---- moving the camera ----

  function move(scene, change) {
    const camera = scene.camera;
    change(camera);
    camera.pitch = clamp(camera.pitch, -Math.PI / 2, Math.PI / 2);
    camera.zoom = clamp(camera.zoom, 0.2, 20);
    camera.pan = camera.pan.map((value) => clamp(value, -2, 2));
    for (const view of scene.views) request(view);
  }

  const turn = (scene, x, y) => move(scene, (camera) => {
    camera.yaw -= x;
    camera.pitch += y;
  });
  const shift = (scene, x, y) => move(scene, (camera) => {
    camera.pan = [camera.pan[0] + x / camera.zoom, camera.pan[1] - y / camera.zoom];
  });
  const zoom = (scene, factor) => move(scene, (camera) => { camera.zoom *= factor; });
  const reset = (scene) => move(scene, (camera) => Object.assign(camera, START));

  function listenToPointers(canvas, scene) {
    const pointers = new Map(); // id -> position of each pressed finger or mouse
    const spread = ([a, b]) => Math.hypot(a.x - b.x, a.y - b.y);
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    });
    canvas.addEventListener("pointermove", (event) => {
      const last = pointers.get(event.pointerId);
      if (!last) return;
      const before = pointers.size === 2 && spread([...pointers.values()]);
      const [x, y] = [event.clientX - last.x, event.clientY - last.y];
      pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
      const size = canvas.clientHeight;
      if (pointers.size === 2) {
        if (before > 0) zoom(scene, spread([...pointers.values()]) / before);
        shift(scene, x / size, y / size); // half, because each finger adds its own move
      } else if (pointers.size === 1) {
        const shifting = event.buttons & 6 || event.shiftKey;
        if (shifting) shift(scene, 2 * x / size, 2 * y / size);
        else turn(scene, 4 * x / size, 4 * y / size);
      }
    });
    for (const name of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(name, (event) => pointers.delete(event.pointerId));
    }
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("wheel", (event) => {
      // Without focus the wheel scrolls the page.
      if (document.activeElement !== canvas && !event.ctrlKey) return;
      event.preventDefault();
      zoom(scene, Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0015)));
    }, { passive: false });
  }

  function listenToKeys(canvas, scene) {
    const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    canvas.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.altKey || event.metaKey) return;
      const arrow = arrows[event.key];
      if (arrow && event.shiftKey) shift(scene, 0.1 * arrow[0], 0.1 * arrow[1]);
      else if (arrow) turn(scene, 0.15 * arrow[0], 0.15 * arrow[1]);
      else if (event.key === "+" || event.key === "=") zoom(scene, 1.15);
      else if (event.key === "-") zoom(scene, 1 / 1.15);
      else if (event.key === "0") reset(scene);
      else if (event.key === "Escape") canvas.blur();
      else return;
      event.preventDefault();
    });
  }

  // ---- start ----

  try {
    renderer = createRenderer();
  } catch (error) {
    console.error(error);
  }
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
  for (const element of document.querySelectorAll(".scene")) {
    const scene = { frame: element.dataset.frame.split(" ").map(Number), camera: { ...START }, views: [] };
    for (const canvas of element.querySelectorAll("canvas[data-mesh]")) {
      if (!renderer) {
        replaceWithText(canvas, "This browser has no WebGL 2, which the 3D views need.");
        continue;
      }
      const view = { canvas, scene, context: canvas.getContext("2d"), stale: true };
      scene.views.push(view);
      views.set(canvas, view);
      listenToPointers(canvas, scene);
      listenToKeys(canvas, scene);
      nearby.observe(canvas);
      resized.observe(canvas);
    }
    scenes.push(scene);
  }
  for (const box of document.querySelectorAll("input[data-toggle]")) {
    const apply = () => { options[box.dataset.toggle] = box.checked; requestAll(); };
    box.addEventListener("change", apply);
    apply(); // a browser may restore the state of an earlier visit
  }
  for (const button of document.querySelectorAll("button[data-reset]")) {
    button.addEventListener("click", () => scenes.forEach(reset));
  }
})();
