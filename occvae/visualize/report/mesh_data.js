// Decodes the meshes that mesh_data.py packs: decodeMesh(JSON values). Faces do not share vertices.
"use strict";
const decodeMesh = (() => {
  const CREASE = Math.cos(40 * Math.PI / 180); // edges with a larger angle are drawn sharp

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

  // A corner has the smooth normal of its vertex, or at a crease the normal of its face.
  function cornerNormals(positions, corners) {
    const faces = faceNormals(positions, corners), smooth = new Float32Array(positions.length);
    for (let i = 0; i < corners.length; i++) {
      const face = i - i % 3;
      for (let k = 0; k < 3; k++) smooth[3 * corners[i] + k] += faces[face + k];
    }
    const normals = new Int8Array(3 * corners.length);
    for (let i = 0; i < corners.length; i++) {
      const vertex = 3 * corners[i], face = i - i % 3;
      const [fx, fy, fz] = [faces[face], faces[face + 1], faces[face + 2]];
      const [sx, sy, sz] = [smooth[vertex], smooth[vertex + 1], smooth[vertex + 2]];
      const lengths = Math.hypot(fx, fy, fz) * Math.hypot(sx, sy, sz);
      const sharp = !(fx * sx + fy * sy + fz * sz > CREASE * lengths);
      const normal = sharp ? [fx, fy, fz] : [sx, sy, sz], length = Math.hypot(...normal) || 1;
      for (let k = 0; k < 3; k++) normals[3 * i + k] = Math.round(127 * normal[k] / length);
    }
    return normals;
  }

  function atCorners(values, corners, place) {
    const result = new values.constructor(3 * corners.length);
    for (let i = 0; i < corners.length; i++) {
      for (let k = 0; k < 3; k++) result[3 * i + k] = values[place(corners[i], k)];
    }
    return result;
  }

  // Returns positions, normals and colors (null without colors), three values per corner.
  return async (mesh) => {
    const bytes = await inflate(mesh.data), count = mesh.vertices;
    const vertices = readPositions(bytes, mesh), corners = readCorners(bytes, mesh);
    const colors = bytes.subarray(6 * count + 12 * mesh.faces);
    return {
      positions: atCorners(vertices, corners, (vertex, k) => 3 * vertex + k),
      normals: cornerNormals(vertices, corners),
      colors: mesh.colored ? atCorners(colors, corners, (vertex, k) => k * count + vertex) : null,
    };
  };
})();
