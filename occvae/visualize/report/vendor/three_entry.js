// The parts of three.js that viewer.js uses. README.md tells how three.min.js is made from them.
export {
  AmbientLight, BufferAttribute, BufferGeometry, Color, ColorManagement, DirectionalLight, DoubleSide,
  Group, LinearSRGBColorSpace, Mesh, MeshBasicMaterial, MeshLambertMaterial, PerspectiveCamera, Scene,
  Vector3, WebGLRenderer,
} from "three";
export { OrbitControls } from "three/examples/jsm/controls/OrbitControls.js";
