"""Tests of inside_mesh against exact rational arithmetic, analytic shapes and symmetries."""

import itertools
from fractions import Fraction
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from occvae import inside_mesh
from occvae.ops.inside_mesh import winding_number, winding_sign
from tests.conftest import BACKENDS, DEVICES, needs_kernels
from tests.mesh_builders import box, join, random_rotation, shuffle, sphere, torus

DTYPES = (torch.float32, torch.float64)


def rational(rows):
    return [[Fraction(x) for x in row] for row in rows]


def oracle(vertices, faces, points):
    """Parity in exact arithmetic, after moving points by e^4, e^6 and e^2 along x, y and z.

    A face is crossed if the moved point is strictly inside its projection and strictly below its
    plane. e is smaller than all differences that the tests' coordinates can form.
    """
    return _oracle(*(_rows(part) for part in (vertices, faces, points)))


def _rows(tensor: Tensor) -> tuple[tuple[float, ...], ...]:
    return tuple(map(tuple, tensor.tolist()))


@cache  # the same for each backend and device
def _oracle(vertices: tuple, faces: tuple, points: tuple) -> Tensor:
    e = Fraction(1, 2**600)
    dx, dy, dz = e**4, e**6, e**2
    corners = rational(vertices)
    triangles = [[corners[i] for i in face] for face in faces]
    inside = []
    for x, y, z in rational(points):
        p = (x + dx, y + dy, z + dz)
        inside.append(sum(crosses(triangle, p) for triangle in triangles) % 2 == 1)
    return torch.tensor(inside, dtype=torch.bool)


def crosses(triangle, p):
    a, b, c = triangle
    areas = [
        (v[0] - u[0]) * (p[1] - u[1]) - (v[1] - u[1]) * (p[0] - u[0])
        for u, v in ((b, c), (c, a), (a, b))
    ]
    if not (all(area > 0 for area in areas) or all(area < 0 for area in areas)):
        return False
    height = sum(w * corner[2] for w, corner in zip(areas, triangle, strict=True)) / sum(areas)
    return p[2] < height


def assert_exact(mesh, points, backend, *, dtype=torch.float64, device="cpu", expected=None):
    vertices, faces = mesh[0].to(dtype), mesh[1]
    points = points.to(dtype)
    if expected is None:
        expected = oracle(vertices, faces, points)
    arguments = (x.to(device) for x in (vertices, faces, points))
    inside = inside_mesh(*arguments, backend=backend)
    assert inside.dtype == torch.bool and inside.device.type == device
    wrong = (inside.cpu() != expected).nonzero()[:, 0]
    assert len(wrong) == 0, f"{len(wrong)} wrong, first {points[wrong[0]].tolist()}"


def lattice(values):
    return torch.tensor(list(itertools.product(values, repeat=3)), dtype=torch.float64)


def uniform(count, seed=0, extent=0.55):
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(count, 3, generator=generator, dtype=torch.float64) * 2 - 1) * extent


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("flip", [0, 0b010101, 0b111111, 0b100110])
def test_a_box_contains_its_lower_faces_and_not_its_upper_ones(device, backend, dtype, flip):
    """The points lie below edges, vertices and diagonals, and on the surface."""
    points = lattice([-0.5, 0.0, 0.25, 0.5, 1.0, 1.25])
    expected = ((points >= 0) & (points < 1)).all(1)
    assert torch.equal(oracle(*box(flip=flip), points), expected)
    assert_exact(box(flip=flip), points, backend, dtype=dtype, device=device, expected=expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_boxes_that_tile_space_contain_each_point_once(backend):
    points = lattice([0.0, 1 / 3, 0.5, 1.0, 1.5, 2.0])
    total = torch.zeros(len(points), dtype=torch.int64)
    for flip, corner in enumerate(itertools.product((0, 1), repeat=3)):
        mesh = box(corner, [x + 1 for x in corner], flip=flip * 37 % 64)
        total += inside_mesh(*mesh, points, backend=backend)
    assert torch.equal(total, ((points >= 0) & (points < 2)).all(1).long())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_points_on_and_below_vertices_edges_and_faces_are_exact(device, backend, dtype):
    """The points are vertices, midpoints of edges and centers of faces, or below these."""
    vertices = sphere(1)[0] @ random_rotation(3)
    mesh = (vertices.to(dtype).double(), sphere(1)[1])
    corners, up = mesh[0][mesh[1]], torch.tensor([0.0, 0.0, 1.0])
    middles = (corners + corners.roll(1, 1)) / 2
    points = torch.cat([mesh[0], middles.reshape(-1, 3), corners.mean(1)])
    points = points - torch.tensor([[0.0], [0.25], [-0.5]])[torch.arange(len(points)) % 3] * up
    assert_exact(mesh, points, backend, dtype=dtype, device=device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("scale", [1e-44, pytest.param(1e-30, marks=pytest.mark.slow), 1.0, 1e30])
def test_all_scales_of_float32_are_exact(device, backend, scale):
    mesh, points = torus(8, 6), torch.cat([uniform(40), torus(8, 6)[0][::3]])
    vertices = (mesh[0] * scale).float()
    assert_exact((vertices, mesh[1]), points * scale, backend, dtype=torch.float32, device=device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "scale",
    [1e-85, *(pytest.param(scale, marks=pytest.mark.slow) for scale in (1e-40, 1e40)), 1e88],
)
def test_all_scales_of_float64_are_exact(device, backend, scale):
    mesh, points = torus(8, 6), torch.cat([uniform(40), torus(8, 6)[0][::3]])
    vertices = mesh[0] * scale
    vertices[vertices.abs() < 1e-90] = 0
    points = points * scale
    points[points.abs() < 1e-90] = 0
    assert_exact((vertices, mesh[1]), points, backend, device=device)


@pytest.mark.parametrize("backend", BACKENDS)
def test_coordinates_below_1e_90_count_as_0(backend):
    vertices, faces = box()
    vertices[vertices == 0] = 1e-100
    rows = [[0.5, 0.5, 0.0], [1e-95, 1e-300, -1e-200], [-1e-80, 0.5, 0.5]]
    points = torch.tensor(rows, dtype=torch.float64)
    assert inside_mesh(vertices, faces, points, backend=backend).tolist() == [1, 1, 0]


@pytest.mark.parametrize("backend", BACKENDS)
def test_slivers_far_from_the_origin_are_exact(backend):
    """Coordinates differ in their last bits only, so that even differences are not exact."""
    generator = torch.Generator().manual_seed(1)
    steps = torch.randint(-3, 4, (4, 3), generator=generator)
    points = torch.randint(-3, 4, (200, 3), generator=generator)
    far = torch.tensor([1.0, 2**20 + 1, 1e-9], dtype=torch.float64)
    ulp = torch.tensor([2.0**-52, 2.0**-32, 2.0**-82], dtype=torch.float64)
    faces = torch.tensor([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
    assert_exact((far + steps * ulp, faces), far + points * ulp, backend)
    mixed = torch.cat([far + steps[:2] * ulp, torch.tensor([[0.3, 1e-30, 7.0], [1e9, 2.0, 1e-12]])])
    assert_exact((mixed, faces), torch.cat([far + points * ulp, uniform(50)]), backend)


COORDINATES = st.sampled_from(
    [0.0, 0.25, 0.5, 1.0, 1 / 3, 0.1, 0.3, -1.0, 1e-20, 3e8, 0.1 + 2**-56]
)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), backend=st.sampled_from(["reference", "native"]))
@needs_kernels
def test_random_tetrahedra_of_few_coordinates_are_exact(data, backend):
    """Few coordinates make coplanar, degenerate and repeated corners frequent."""
    rows = st.lists(COORDINATES, min_size=3, max_size=3)
    dtype = data.draw(st.sampled_from(DTYPES))
    corners = torch.tensor(data.draw(st.lists(rows, min_size=5, max_size=5)), dtype=torch.float64)
    faces = torch.tensor([[0, 2, 1], [0, 1, 3], [1, 2, 3], [0, 3, 4], [3, 2, 4], [2, 0, 4]])
    points = torch.tensor(data.draw(st.lists(rows, min_size=1, max_size=8)), dtype=torch.float64)
    points = torch.cat([points, corners])
    assert_exact((corners.to(dtype), faces), points, backend, dtype=dtype)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))]
)
def test_rotated_analytic_shapes_have_their_inside(device, backend, seed):
    turn = random_rotation(seed)
    points = uniform(20_000, seed)
    for vertices, faces, distance in (
        (*sphere(5), (points @ turn.T).norm(dim=1) - 0.5),
        (*torus(120, 60), torus_distance(points @ turn.T)),
        (*box([-0.3, -0.2, -0.1], [0.3, 0.2, 0.1]), box_distance(points @ turn.T)),
    ):
        clear = distance.abs() > 2e-3  # farther than the mesh is from the shape
        arguments = (x.to(device) for x in (vertices @ turn, faces, points[clear]))
        inside = inside_mesh(*arguments, backend=backend).cpu()
        assert clear.float().mean() > 0.9
        assert torch.equal(inside, distance[clear] < 0)


def torus_distance(p):
    return torch.hypot(p[:, :2].norm(dim=1) - 0.35, p[:, 2]) - 0.12


def box_distance(p):
    return (p.abs() - torch.tensor([0.3, 0.2, 0.1], dtype=torch.float64)).amax(1)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_order_of_faces_corners_vertices_and_points_does_not_matter(device, backend):
    mesh = join(torus(), sphere(2, 0.2))
    points = torch.cat([uniform(3000), mesh[0], (lattice([0.0, 0.1, 0.25]) - 0.1)])
    expected = inside_mesh(*mesh, points, backend="reference")
    order = torch.randperm(len(points), generator=torch.Generator().manual_seed(0))
    for seed in range(3):
        arguments = (x.to(device) for x in (*shuffle(mesh, seed), points[order]))
        inside = inside_mesh(*arguments, backend=backend).cpu()
        assert torch.equal(inside, expected[order])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_duplicate_faces_cancel_and_nested_shells_alternate(device, backend):
    points = uniform(2000)
    radius = points.norm(dim=1)
    clear = (radius - 0.5).abs().minimum((radius - 0.25).abs()) > 0.02
    points, radius = points[clear].to(device), radius[clear]
    vertices, faces = (x.to(device) for x in join(sphere(3), sphere(3, 0.25)))
    inside = inside_mesh(vertices, faces, points, backend=backend).cpu()
    assert torch.equal(inside, (radius < 0.5) & (radius > 0.25))
    twice = torch.cat([faces, faces.flip(1)])
    assert not inside_mesh(vertices, twice, points, backend=backend).any()
    thrice = torch.cat([twice, faces])
    assert torch.equal(inside_mesh(vertices, thrice, points, backend=backend).cpu(), inside)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_faces_without_area_do_not_matter(device, backend):
    vertices, faces = torus()
    i = torch.arange(len(vertices))
    nothing = torch.cat([torch.stack([i, i, i.roll(1)], 1), torch.stack([i, i, i], 1)])
    points = torch.cat([uniform(2000), vertices])
    expected = inside_mesh(vertices, faces, points, backend="reference")
    arguments = (x.to(device) for x in (vertices, torch.cat([faces, nothing]), points))
    assert torch.equal(inside_mesh(*arguments, backend=backend).cpu(), expected)


@needs_kernels
@pytest.mark.parametrize("count", [1, 7, 300, 30_000])
@pytest.mark.parametrize("dtype", DTYPES)
def test_kernel_and_reference_agree_for_any_number_of_points(count, dtype):
    """The kernel's grid depends on the number. Slivers of the mesh cross the whole grid."""
    needle = box([-0.5, -0.5, -0.001], [0.5, -0.499, 0.001])
    mesh = join(torus(), (needle[0] @ random_rotation(5), needle[1]), sphere(3, 0.3))
    arguments = (mesh[0].to(dtype), mesh[1], uniform(count).to(dtype))
    native, reference = (inside_mesh(*arguments, backend=b) for b in ("native", "reference"))
    assert torch.equal(native, reference)


@needs_kernels
@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_any_number_of_threads_gives_the_same_result(threads):
    mesh, points = torus(90, 50), uniform(20_000)
    points[:5000, 1] = points[0, 1]  # many in one row of the grid
    expected = inside_mesh(*mesh, points, backend="reference")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert torch.equal(inside_mesh(*mesh, points, backend="native"), expected)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_many_large_faces_need_little_memory(device, backend):
    """Each face spans the whole grid: in a fine grid, thousands of columns would list them all."""
    boxes = [box([-0.5 + i * 1e-5] * 3, [0.5 - i * 1e-5] * 3) for i in range(300)]
    vertices, faces = join(*boxes)
    points = uniform(2000, extent=0.49)
    arguments = (x.to(device) for x in (vertices, faces, points))
    assert not inside_mesh(*arguments, backend=backend).any()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("method", ["parity", "winding"])
def test_empty_inputs_give_empty_or_outside(device, backend, method):
    vertices, faces = (x.to(device) for x in box())
    none = torch.zeros(0, 3, device=device)
    points = torch.rand(5, 3, device=device)
    options = dict(method=method, backend=backend)
    assert inside_mesh(vertices, faces, none, **options).shape == (0,)
    assert not inside_mesh(vertices, faces[:0], points, **options).any()
    assert not inside_mesh(none, faces[:0], points, **options).any()
    assert inside_mesh(none, faces[:0], none, **options).shape == (0,)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("method", ["parity", "winding"])
def test_points_that_are_not_finite_or_far_away_are_outside(device, backend, method):
    vertices, faces = box()
    nan, inf = float("nan"), float("inf")
    rows = [[x, 0.5, 0.5] for x in (nan, inf, -inf, 1e30, -1e30, 1e300, -1e300)]
    points = torch.tensor(rows, dtype=torch.float64)
    points = torch.cat([points.roll(i, 1) for i in range(3)] + [torch.full((1, 3), 0.5)])
    for kept in (faces, faces[:-2]):  # closed, and without the upper face
        arguments = (x.to(device) for x in (vertices, kept, points))
        inside = inside_mesh(*arguments, method=method, backend=backend).cpu()
        outside = points.isfinite().all(1).logical_not() if len(kept) < 12 else slice(-1)
        assert not inside[outside].any()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_all_dtypes_and_layouts_are_accepted(device, backend):
    mesh, points = torus(), uniform(500)
    vertices, faces, points = (x.to(device) for x in (*mesh, points))
    expected = inside_mesh(vertices, faces, points, backend="reference")
    strided = torch.stack([points, points], 2)[:, :, 0], vertices.T.contiguous().T
    assert not strided[0].is_contiguous() and not strided[1].is_contiguous()
    for arguments in (
        (vertices, faces.int(), points),
        (strided[1], faces.T.contiguous().T, strided[0]),
        (vertices.clone().requires_grad_(), faces, points.clone().requires_grad_()),
    ):
        inside = inside_mesh(*arguments, backend=backend)
        assert torch.equal(inside, expected) and not inside.requires_grad
    # Mixed inputs are computed in float64, which holds float32 without rounding.
    narrow = vertices.float()
    mixed = inside_mesh(narrow, faces, points, backend=backend)
    assert torch.equal(mixed, inside_mesh(narrow.double(), faces, points, backend=backend))


WITH_NAN = box()[0]
WITH_NAN[3, 1] = float("nan")
ERRORS = [
    ("list", TypeError, r"faces must be a torch.Tensor; got list", {"faces": [[0, 1, 2]]}),
    ("half", TypeError, "points must be float32 or float64; got torch.float16",
     {"points": torch.zeros(2, 3, dtype=torch.half)}),
    ("float faces", TypeError, "faces must be int32 or int64; got torch.float32",
     {"faces": torch.zeros(2, 3)}),
    ("two columns", ValueError, r"points must be \(count, 3\); got \(4, 2\)",
     {"points": torch.zeros(4, 2)}),
    ("batch", ValueError, r"vertices must be \(count, 3\); got \(1, 4, 3\)",
     {"vertices": torch.zeros(1, 4, 3)}),
    ("device", ValueError, "faces is on meta but points on cpu",
     {"faces": torch.zeros(2, 3, dtype=torch.int64, device="meta")}),
    ("index", ValueError, "indices from 0 to 7; got 0 to 8",
     {"faces": torch.tensor([[0, 1, 8]])}),
    ("negative", ValueError, "indices from 0 to 7; got -1 to 2",
     {"faces": torch.tensor([[0, -1, 2]])}),
    ("no vertices", ValueError, "indices from 0 to -1; got 0 to 2",
     {"vertices": torch.zeros(0, 3), "faces": torch.tensor([[0, 1, 2]])}),
    ("NaN", ValueError, r"finite.*1 of 8 are not, first vertices\[3\] = \[0.0, nan, 1.0\]",
     {"vertices": WITH_NAN}),
    ("too large", ValueError, r"at most 1e\+90 in magnitude; 8 of 8 are not",
     {"vertices": torch.full((8, 3), 1e100, dtype=torch.float64)}),
    ("method", ValueError, "parity, winding; got 'sign'", {"method": "sign"}),
    ("backend", ValueError, "auto, native, reference; got 'cuda'", {"backend": "cuda"}),
]  # fmt: skip


@pytest.mark.parametrize("error, message, change", [e[1:] for e in ERRORS],
                         ids=[e[0] for e in ERRORS])  # fmt: skip
def test_errors_say_what_was_expected_and_given(error, message, change):
    vertices, faces = box()
    arguments = {"vertices": vertices, "faces": faces, "points": torch.zeros(2, 3)} | change
    with pytest.raises(error, match=message) as caught:
        inside_mesh(**arguments)
    assert "\n" not in str(caught.value)


@needs_kernels
@pytest.mark.parametrize("op", ["inside_mesh", "winding_number"])
def test_the_ops_refuse_indices_out_of_range(op):
    vertices, faces = box()
    for bad in (-1, 8, 2**40):
        with pytest.raises(RuntimeError, match="1 faces have indices out of range"):
            broken = faces.clone()
            broken[4, 1] = bad
            getattr(torch.ops.occvae, op)(vertices, broken, uniform(3))
    with pytest.raises(RuntimeError, match="faces have .* vertices that are not finite"):
        getattr(torch.ops.occvae, op)(WITH_NAN, faces, uniform(3))
    unused = torch.cat([vertices, WITH_NAN])
    assert getattr(torch.ops.occvae, op)(unused, faces, uniform(3)).isfinite().all()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("op", ["inside_mesh", "winding_number"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_opcheck(device, op, dtype):
    vertices, faces = box()
    arguments = (vertices.to(device, dtype), faces.to(device), uniform(9).to(device, dtype))
    torch.library.opcheck(getattr(torch.ops.occvae, op).default, arguments)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("method", ["parity", "winding"])
def test_compiles_as_one_graph(device, method):
    arguments = tuple(x.to(device) for x in (*torus(), uniform(50)))
    compiled = torch.compile(inside_mesh, fullgraph=True, backend="aot_eager")
    expected = inside_mesh(*arguments, method=method)
    assert torch.equal(compiled(*arguments, method=method), expected)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_winding_numbers_of_closed_meshes_are_integers(device, backend, dtype):
    hollow = join(sphere(3), (sphere(3, 0.25)[0], sphere(3, 0.25)[1].flip(1)))
    points = uniform(300)
    for mesh in (torus(), hollow, join(torus(), torus())):
        vertices, faces, p = mesh[0].to(dtype), mesh[1], points.to(dtype)
        arguments = (x.to(device) for x in (vertices, faces, p))
        winding = winding_number(*arguments, backend=backend)
        assert winding.dtype == torch.float64
        torch.testing.assert_close(winding.cpu(), winding.cpu().round(), rtol=0, atol=1e-10)
    once = inside_mesh(*torus(), points.to(dtype), method="parity", backend="reference")
    torch.testing.assert_close(winding.cpu(), 2 * once.double(), rtol=0, atol=1e-10)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_winding_number_of_a_face_is_its_solid_angle(device, backend):
    """Seen from the center, a side of a cube covers a sixth of the sphere, half of it a twelfth."""
    vertices, faces = box([-1, -1, -1], [1, 1, 1])
    center = torch.zeros(1, 3, dtype=torch.float64)
    for face in faces:
        arguments = (x.to(device) for x in (vertices, face[None], center))
        assert winding_number(*arguments, backend=backend).item() == pytest.approx(
            1 / 12, abs=1e-15
        )


@needs_kernels
@pytest.mark.parametrize("device", DEVICES)
def test_winding_kernel_and_reference_agree_on_open_meshes(device):
    """Some meshes wind around points many times, so that whole turns must be counted."""
    generator = torch.Generator().manual_seed(0)
    soup = torch.rand(600, 3, generator=generator, dtype=torch.float64) - 0.5
    points = torch.cat([uniform(400), soup[:20], soup.view(-1, 3, 3)[:20].mean(1)])
    open_torus = (torus()[0], torus()[1][:-300])
    many = join(*[torus()] * 7)
    seams = torus()[0][torus()[1]].view(-1, 3), torch.arange(4800).view(-1, 3)[:-9]
    for mesh in (seams, (soup, torch.arange(600).view(-1, 3)), open_torus, many):
        arguments = [x.to(device) for x in (*mesh, points)]
        native, reference = (
            winding_number(*arguments, backend=b).cpu() for b in ("native", "reference")
        )
        away = torch.arange(len(points)) < 400
        torch.testing.assert_close(native[away], reference[away], rtol=0, atol=1e-10)
        assert native.isfinite().all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_winding_finds_the_inside_of_a_mesh_with_a_hole(backend):
    vertices, faces = sphere(3)
    middle = vertices[faces].mean(1)
    kept = faces[middle[:, 2] < 0.45]  # the top is missing
    points = uniform(500, extent=0.5)
    radius = points.norm(dim=1)
    points = points[((radius < 0.4) | (radius > 0.52)) & (points[:, 2] < 0.2)]
    inside = inside_mesh(vertices, kept, points, method="winding", backend=backend)
    assert torch.equal(inside, points.norm(dim=1) < 0.45)
    parity = inside_mesh(vertices, kept, points, backend=backend)
    assert (parity != inside).any()  # parity fails on open meshes


def loose(mesh, noise=3e-3):
    """Separates all faces and moves their corners, so that no two faces share an edge."""
    corners = mesh[0][mesh[1].reshape(-1)]
    generator = torch.Generator().manual_seed(0)
    moved = corners + noise * torch.randn(corners.shape, generator=generator, dtype=corners.dtype)
    return moved, torch.arange(len(corners)).view(-1, 3)


def some_turned(mesh):
    vertices, faces = mesh
    turned = torch.rand(len(faces), generator=torch.Generator().manual_seed(1)) < 0.2
    return vertices, torch.where(turned[:, None], faces.flip(1), faces)


def half(mesh):
    vertices, faces = mesh
    return vertices, faces[vertices[faces].mean(1)[:, 2] > 0]


def random_faces(count=600):
    generator = torch.Generator().manual_seed(2)
    vertices = torch.rand(3 * count, 3, generator=generator, dtype=torch.float64) - 0.5
    return vertices, torch.arange(3 * count).view(-1, 3)


OPEN_MESHES = {
    "hole": lambda: (sphere(4)[0], sphere(4)[1][1:]),
    "half": lambda: half(sphere(4)),
    "loose": lambda: loose(sphere(4)),
    "turned": lambda: some_turned(sphere(4)),
    "inwards": lambda: (sphere(4)[0], sphere(4)[1][1:].flip(1)),
    "random": random_faces,
    "twice": lambda: join(half(sphere(4)), half(sphere(4, 0.4))),
}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", OPEN_MESHES)
def test_winding_sign_compares_the_exact_winding_number(device, backend, name):
    """Half of the points are near the surface. Many have numbers close to a level."""
    vertices, faces = (x.to(device) for x in OPEN_MESHES[name]())
    generator = torch.Generator().manual_seed(3)
    noise = 0.02 * torch.randn(1500, 3, generator=generator, dtype=torch.float64)
    near = vertices.cpu()[torch.randint(len(vertices), (1500,), generator=generator)] + noise
    anywhere = torch.rand(1500, 3, generator=generator, dtype=torch.float64) * 1.2 - 0.6
    points = torch.cat([near, anywhere]).to(device)
    winding = winding_number(vertices, faces, points, backend=backend)
    for level in (0.25, 0.5, 0.75):
        sign = winding_sign(vertices, faces, points, level=level, backend=backend)
        assert sign.dtype == torch.int8
        assert torch.equal(sign == 1, winding >= level)
        assert torch.equal(sign == -1, winding <= -level)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_winding_sign_shares_answers_only_within_regions(device, backend):
    """A whole grid, in any order and with points that are not finite among the others."""
    vertices, faces = (x.to(device) for x in OPEN_MESHES["hole"]())
    line = (torch.arange(24, dtype=torch.float64) + 0.5) / 24 - 0.5
    points = torch.cartesian_prod(line, line, line)
    points = points[torch.randperm(len(points), generator=torch.Generator().manual_seed(4))]
    points[::1000, 1] = float("nan")
    points[1::1000, 2] = float("inf")
    winding = winding_number(vertices, faces, points.to(device), backend=backend)
    sign = winding_sign(vertices, faces, points.to(device), backend=backend)
    assert torch.equal(sign == 1, winding >= 0.5)
    assert not sign[::1000].any() and not sign[1::1000].any()


def test_a_level_that_is_not_positive_is_refused():
    for level in (0.0, -0.5, float("nan")):
        with pytest.raises(ValueError, match="level must be positive; got"):
            winding_sign(*box(), torch.zeros(1, 3), level=level)


@pytest.mark.parametrize("dtype", DTYPES)
def test_opcheck_of_winding_sign(dtype):
    arguments = (box()[0].to(dtype), box()[1], uniform(9).to(dtype), 0.5)
    torch.library.opcheck(torch.ops.occvae.winding_sign.default, arguments)
