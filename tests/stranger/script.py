"""What a new user types after `pip install occvae`, each step right and slightly wrong."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Line:
    """One line of the user. Lines with `>>> ` are typed into one Python session."""

    typed: str
    says: str  # a regular expression that the output matches
    status: int = 0


_IMPORT = "occvae data import voxels boxes.npz"
_SMALL = "--points 2048 --views 2 --image-size 40 --workers 1"

SCRIPT = (
    # What is installed.
    Line("occvae --version", r"^occvae \d+\.\d+"),
    Line("python -m occvae info", r"(?m)^cpu kernels +occvae\._C,"),
    Line("occvae info --json | python -m json.tool", r'"kernels"'),
    Line("occvae infos", r"error: .*invalid choice: 'infos'.*`occvae --help`", 2),
    Line("occvae info --jsn", r"error: .*did you mean --json\?", 2),
    Line("occvae", r"error: give one of the commands", 2),
    Line("occvae completion bash", r"complete"),
    # Meshes of functions.
    Line(">>> import occvae, numpy, torch", r"^$"),
    Line(">>> occvae.__file__", r"site-packages/occvae/"),
    Line(">>> ball = lambda p: 0.4 - p.norm(dim=1)", r"^$"),
    Line(">>> occvae.extract_mesh(ball, resolution=32)[0].is_watertight", r"^True$"),
    Line(">>> sdf = lambda p: numpy.linalg.norm(p, axis=1) - 0.4", r"^$"),
    Line(
        ">>> occvae.extract_mesh(sdf, inside='negative', resolution=32)[0].volume",
        r"0\.2[67]",
    ),
    Line(">>> occvae.extract_mesh(ball, inside='both')", r"^ValueError: inside must be", 1),
    Line(
        ">>> occvae.extract_mesh(ball, resolution=32, bounds=((-1, -1, 0), (1, 1, 1)))[0].bounds",
        r"-4\.0.*e-01",
    ),
    Line(">>> occvae.extract_mesh(lambda p: p, resolution=32)", r"Error: ", 1),
    # The built-in model.
    Line(">>> occvae.list_pretrained()", r"vitocc-small"),
    Line(">>> occvae.from_pretrained().reconstruct('chair.jpg', resolution=32)", r"Trimesh"),
    Line(
        "occvae reconstruct chair.jpg --resolution 32 -o first.glb",
        r"-> first\.glb .*\n(.*\n)*no run in runs/: using the built-in model vitocc-small",
    ),
    Line("occvae reconstruct chair.jpg --model vitoc-small", r"error: .*\(vitocc-small\)", 2),
    # Data.
    Line(f"{_IMPORT} data/boxes {_SMALL}", r"24 shapes"),
    Line("occvae data import voxel boxes.npz data/x", r"error: .*'voxel'.*'?voxels'?", 2),
    Line(f"{_IMPORT} data/x --part 3/2", r"error: .*numbered from 1 to 2, got 3/2", 2),
    Line(f"{_IMPORT} data/p1 {_SMALL} --part 1/2", r"part 1 of 2"),
    Line(f"{_IMPORT} data/p2 {_SMALL} --part 2/2", r"part 2 of 2"),
    Line("occvae data merge data/p1 data/p2 data/both", r"3 shards are hard links"),
    Line("occvae data merge data/p1 data/p3 data/x", r"error: data/p3/dataset.json: no dataset", 2),
    Line("occvae data info data/boxes", r"24"),
    Line("occvae data verify data/box", r"error: data/box/dataset.json: no dataset here", 2),
    Line("occvae data download onet", r"error: .*required: destination", 2),
    Line("occvae data download shapenet data/x", r"error: .*'shapenet'.*'onet', 'pix2vox'", 2),
    # Trainings of one and two steps.
    Line("occvae train --print-config", r"(?m)^optim:\n(.*\n)*  lr: "),
    Line(
        "echo 'optim: {lr: 0.004}' > my.yaml && occvae train --config my.yaml --print-config",
        r"lr: 0\.004",
    ),
    Line("occvae train --config your.yaml", r"error: --config your\.yaml: cannot be read", 2),
    Line("occvae train lr=3e-4", r"error: unknown setting lr; did you mean optim\.lr\?", 2),
    Line("occvae train --arch vitnet", r"error: unknown arch 'vitnet'; did you mean .*vitocc", 2),
    Line("python -m occvae.train --data data/box", r"error: data/box/dataset\.json: no data", 2),
    Line("timeout -s INT 9 occvae train || true", r"dataset of 768 shapes \(about 650 MB, about"),
    Line(
        "python -m deepspeed.launcher.runner --hostfile hosts --module occvae.train",
        r"error: deepspeed --hostfile hosts: no such file",
        2,
    ),
    Line(
        "occvae train --data data/boxes initial_weights=vitocc-small optim.steps=1 --out runs/own",
        r"step 1: validation IoU",
    ),
    Line(
        "occvae train --data data/boxes model.image_size=64", r"error: .*does not fit this enc", 2
    ),
    Line("occvae train --data data/boxes optim.steps=2", r"step 2: validation IoU"),
    # Its evaluation and reconstruction.
    Line("occvae evaluate --no-meshes", r"report: runs/vitocc/best/evaluation-\S+\.json"),
    Line("occvae evaluate --no-meshes", r"error: .*exists; replace it with --force", 2),
    Line("occvae evaluate --no-meshes --force --quiet", r"category mean"),
    Line("occvae evaluate --model runs/vitoc", r"error: runs/vitoc", 2),
    Line("occvae reconstruct chair.jpg --resolution 32", r"chair\.jpg -> \S+\.glb .*watertight"),
    Line("occvae reconstruct table.jpg", r"error: table\.jpg: no such file", 2),
    Line("occvae reconstruct room.png --strict", r"error: room\.png: background not rem", 2),
    Line("occvae reconstruct - < chair.jpg", r"error: -: .*standard input", 2),
    Line("occvae reconstruct https://example.com/chair.jpg", r"error: .*download", 2),
    Line("occvae reconstruct chair.jpg -o chair.xyz", r"error: chair\.xyz: unknown mesh format", 2),
    Line("occvae reconstruct chair.jpg --resolution 32 -o c.obj && ls c.mtl", r"(?m)^c\.mtl$"),
    Line("occvae reconstruct chair.jpg --uncertainty -o c.stl", r"error: .*uncertainty", 2),
    Line("occvae view chairs.glb", r"error: chairs\.glb: no such file", 2),
    # A model of point clouds.
    Line("occvae train --arch onet-points --data data/boxes", r"error: .*--training-surface", 2),
    Line(f"{_IMPORT} data/surfaces {_SMALL} --training-surface", r"24 shapes"),
    Line(
        "occvae train --arch onet-points --data data/surfaces optim.steps=2",
        r"step 2: validation IoU",
    ),
    Line(
        "printf '0 0 0\n4 0 0 9\n0 2 0\n0 0 3\n' > scan.xyz && "
        "occvae reconstruct scan.xyz --model runs/onet-points --resolution 32",
        r"scaled by 1/4; only 4 points",
    ),
    Line(
        "occvae reconstruct chair.jpg --model runs/onet-points -o n.glb",
        r"error: chair\.jpg: onet-points observes point clouds",
        2,
    ),
    Line(
        "occvae reconstruct scan.xyz --model runs/vitocc -o n.glb",
        r"error: scan\.xyz: vitocc observes images",
        2,
    ),
    # The same in Python. The first example of the README comes last.
    Line(">>> model = occvae.from_pretrained('runs/vitocc')", r"^$"),
    Line(">>> model.reconstruct(['chair.jpg'], resolution=32)", r"Trimesh"),
    Line(">>> model.reconstruct('chair.jpeg')", r"chair\.jpeg", 1),
    Line(">>> occvae.load_image('chair.jpg', model).shape", r"3, 96, 96"),
    Line(">>> occvae.from_pretrained('runs/vitoc')", r"Error: .*runs/vitoc", 1),
    Line(">>> occvae.from_pretrained('nobody/chairs')", r"Error: .*Hugging Face Hub cannot be", 1),
    Line(">>> occvae.load_image('chair.jpeg', model)", r"Error: chair\.jpeg", 1),
    Line(
        ">>> occvae.push_to_hub('runs/vitoc', 'me/chairs', license='mit')",
        r"Error: .*runs/vitoc",
        1,
    ),
    Line("python readme.py && ls chair.glb", r"^chair\.glb"),
)
