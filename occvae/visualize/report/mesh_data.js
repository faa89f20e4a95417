// Decodes the meshes that mesh_data.py packs into vertices for WebGL: decodeMesh(JSON values).
"use strict";
const decodeMesh = (() => {
  const CREASE = Math.cos(40 * Math.PI / 180); // edges with a larger angle are drawn sharp
  const VERTEX_BYTES = 16; // position 3 x float32, normal 3 x int8, intensity uint8

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
    const normals = new Float32Array(corners.length); // the length is twice the area
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

  // Faces do not share vertices. A corner has the smooth normal of its vertex, or at a crease the
  // normal of its face.
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

  return async (mesh) => {
    const bytes = await inflate(mesh.data);
    const intensities = mesh.colored && bytes.subarray(6 * mesh.vertices + 12 * mesh.faces);
    const vertices = interleave(readPositions(bytes, mesh), readCorners(bytes, mesh), intensities);
    return { vertices, stride: VERTEX_BYTES, count: 3 * mesh.faces, colored: mesh.colored };
  };
})();
