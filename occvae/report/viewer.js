// Draws every <canvas data-mesh> of the page with one WebGL 2 context, which is copied into their
// 2D contexts: browsers grant about 16 WebGL contexts, and a report has more views than that.
// Views in one .scene share a camera. Meshes are decoded when they come near the visible part.
"use strict";
(() => {
  const FIELD_OF_VIEW = 30 * Math.PI / 180;
  const START = { yaw: 35 * Math.PI / 180, pitch: 25 * Math.PI / 180, zoom: 1, pan: [0, 0] };
  const CREASE = Math.cos(40 * Math.PI / 180); // corners sharper than this are drawn sharp
  const BASE_COLOURS = { truth: [0.80, 0.78, 0.74], prediction: [0.50, 0.67, 0.85] };
  const VERTEX_BYTES = 16; // position 3 x float32, normal 3 x int8, intensity uint8
  const options = { error: true, wireframe: false, "z-up": false };
  const json = (id) => JSON.parse(document.getElementById(id).textContent);
  const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

  // ---- data: the counterpart of mesh_data.py ----

  async function inflate(base64) {
    const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }

  function readPositions(bytes, mesh) {
    const count = mesh.vertices, positions = new Float32Array(3 * count);
    for (let axis = 0; axis < 3; axis++) {
      const start = 2 * axis * count;
      for (let i = 0, lattice = 0; i < count; i++) {
        const zigzag = bytes[start + i] | bytes[start + count + i] << 8;
        lattice = (lattice + ((zigzag >>> 1) ^ -(zigzag & 1))) & 0xffff;
        positions[3 * i + axis] = mesh.offset[axis] + lattice * mesh.step[axis];
      }
    }
    return positions;
  }

  function readCorners(bytes, mesh) {
    const count = 3 * mesh.faces, corners = new Uint32Array(count), start = 6 * mesh.vertices;
    for (let i = 0, next = 0; i < count; i++) {
      const at = start + i;
      const code = bytes[at] | bytes[at + count] << 8 | bytes[at + 2 * count] << 16;
      corners[i] = next - (code + bytes[at + 3 * count] * 2 ** 24);
      if (corners[i] === next) next++;
    }
    return corners;
  }

  function faceNormals(positions, corners) {
    const normals = new Float32Array(corners.length); // of length twice the area
    for (let i = 0; i < corners.length; i += 3) {
      const [a, b, c] = [3 * corners[i], 3 * corners[i + 1], 3 * corners[i + 2]];
      const u = [0, 1, 2].map((k) => positions[b + k] - positions[a + k]);
      const v = [0, 1, 2].map((k) => positions[c + k] - positions[a + k]);
      normals[i] = u[1] * v[2] - u[2] * v[1];
      normals[i + 1] = u[2] * v[0] - u[0] * v[2];
      normals[i + 2] = u[0] * v[1] - u[1] * v[0];
    }
    return normals;
  }

  // Three separate corners a face: each has the smooth normal of its vertex where the surface is
  // smooth, and that of its face at creases.
  function interleave(positions, corners, intensities) {
    const faces = faceNormals(positions, corners), smooth = new Float32Array(positions.length);
    for (let i = 0; i < corners.length; i++) {
      const face = i - i % 3;
      for (let k = 0; k < 3; k++) smooth[3 * corners[i] + k] += faces[face + k];
    }
    const buffer = new ArrayBuffer(VERTEX_BYTES * corners.length);
    const floats = new Float32Array(buffer), bytes = new Int8Array(buffer);
    for (let i = 0; i < corners.length; i++) {
      const vertex = 3 * corners[i], face = i - i % 3;
      floats.set(positions.subarray(vertex, vertex + 3), 4 * i);
      const [fx, fy, fz] = [faces[face], faces[face + 1], faces[face + 2]];
      const [sx, sy, sz] = [smooth[vertex], smooth[vertex + 1], smooth[vertex + 2]];
      const lengths = Math.hypot(fx, fy, fz) * Math.hypot(sx, sy, sz);
      const sharp = !(fx * sx + fy * sy + fz * sz > CREASE * lengths);
      const normal = sharp ? [fx, fy, fz] : [sx, sy, sz], length = Math.hypot(...normal) || 1;
      for (let k = 0; k < 3; k++) bytes[16 * i + 12 + k] = Math.round(127 * normal[k] / length);
      if (intensities) bytes[16 * i + 15] = intensities[corners[i]];
    }
    return buffer;
  }

  async function decode(id) {
    const mesh = json(id), bytes = await inflate(mesh.data);
    const intensities = mesh.coloured && bytes.subarray(6 * mesh.vertices + 12 * mesh.faces);
    const vertices = interleave(readPositions(bytes, mesh), readCorners(bytes, mesh), intensities);
    return { vertices, count: 3 * mesh.faces, coloured: mesh.coloured };
  }

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
    uniform bool coloured, wireframe;
    out vec4 colour;
    void main() {
      vec3 toEye = -normalize(viewPosition), normal = normalize(viewNormal);
      normal *= dot(normal, toEye) < 0.0 ? -1.0 : 1.0; // files with faces turned inwards abound
      float key = max(dot(normal, normalize(vec3(0.5, 0.8, 0.6))), 0.0);
      float light = 0.36 + 0.46 * key + 0.24 * max(dot(normal, toEye), 0.0);
      float place = clamp(shade, 0.0, 1.0) * 4.0;
      int stop = min(int(place), 3);
      vec3 surface = coloured ? mix(palette[stop], palette[stop + 1], place - float(stop)) : base;
      if (wireframe) {
        vec3 distances = barycentric / fwidth(barycentric);
        float edge = min(min(distances.x, distances.y), distances.z);
        surface *= mix(0.35, 1.0, smoothstep(0.4, 1.4, edge));
      }
      colour = vec4(surface * light, 1.0);
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
      for (const name of ["toView", "toClip", "base", "palette", "coloured", "wireframe"]) {
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
      gl.vertexAttribPointer(0, 3, gl.FLOAT, false, VERTEX_BYTES, 0);
      gl.vertexAttribPointer(1, 3, gl.BYTE, true, VERTEX_BYTES, 12);
      gl.vertexAttribPointer(2, 1, gl.UNSIGNED_BYTE, true, VERTEX_BYTES, 15);
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
      gl.uniform1i(uniforms.coloured, mesh.coloured && options.error);
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

  // Column-major matrices of a camera that orbits the middle of the scene's frame.
  function cameraMatrices(scene, aspect) {
    const { yaw, pitch, zoom, pan } = scene.camera, [x, y, z, radius] = scene.frame;
    const [cy, sy, cp, sp] = [Math.cos(yaw), Math.sin(yaw), Math.cos(pitch), Math.sin(pitch)];
    let rows = [[cy, 0, -sy], [-sp * sy, cp, -sp * cy], [cp * sy, sp, cp * cy]];
    if (options["z-up"]) rows = rows.map(([a, b, c]) => [a, -c, b]); // y takes the place of -z
    // The sphere around the frame fills the narrower side of the view; zoom narrows the lens.
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
    renderer.draw(view.context, view.mesh, BASE_COLOURS[canvas.dataset.kind], matrices);
    view.stale = false;
  }

  async function load(view) {
    if (view.loading) return;
    view.loading = true;
    try {
      view.mesh = await decode(view.canvas.dataset.mesh);
      request(view);
    } catch (error) {
      say(view.canvas, `This shape cannot be shown: ${error.message}`);
    }
  }

  function say(canvas, text) {
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
    const pointers = new Map(); // of the fingers or the mouse that are down
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
        shift(scene, x / size, y / size); // half, for either finger adds its own
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
      // Without focus the wheel scrolls the page past the view.
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
        say(canvas, "This browser has no WebGL 2, which the 3D views need.");
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
    apply(); // a browser may have kept the state of an earlier visit
  }
  for (const button of document.querySelectorAll("button[data-reset]")) {
    button.addEventListener("click", () => scenes.forEach(reset));
  }
})();
