"""Names, paths and addresses that are invalid or lead elsewhere."""

from __future__ import annotations

from pathlib import Path

from tests.errors.case import Case, heavy
from tests.errors.starts import RECIPE, class_folders, write, wrote

Q = "train experiment=quickstart"
M = "train -m experiment=tiny seed=0,1"
NAME = "names a folder; use letters, digits, spaces"
HOME = "this machine has no home folder of ~nosuchuser; write the path in full"
IMAGES = "dataset=image_folder dataset.root=images dataset.image_size=8"


def recipe_with(text: str, file: str = "experiments/tiny/recipe.yaml") -> object:
    """Prepares a folder by the tiny recipe with a line more."""
    return wrote(file, RECIPE + text)


def deep_json(folder: Path) -> None:
    write("deep.json", "[" * 100_000, folder)


def folder_of_weights(folder: Path) -> None:
    (folder / "made.safetensors").mkdir()


def folder_of_a_file(folder: Path) -> None:
    (folder / "taken").mkdir()
    class_folders(folder)


def damaged_database(folder: Path) -> None:
    write("runs.db", b"SQLite format 3\0" + bytes(200), folder)


# fmt: off
CASES = (
    # names
    Case("a name that the command line cannot say", f"{Q} 'name=\"a=b\"'", f"name=a=b: {NAME}"),
    Case("a name with a line break", f"{Q} 'name=\"a\nb\"'", rf"name=a\\nb: {NAME}"),
    Case("a name with a zero byte", "train experiment=tiny", rf"name=a\\x00b: {NAME}",
         prepare=recipe_with('name: "a\\0b"\n')),
    Case("a name of 300 letters", f"{Q} name={'x' * 300}",
         "names a folder, and has 300 bytes; use at most 200"),
    Case("a name of a hidden folder", f"{Q} name=.git", f"name=.git: {NAME}"),
    Case("a name that looks like an option", f"{Q} name=-rf", f"name=-rf: {NAME}"),
    Case("a sweep that leaves its folder", f"{M} sweep.name=../../escape",
         rf"sweep.name=../../escape: {NAME}", start="recipe"),
    Case("a sweep at the root", f"{M} sweep.name=/escape", f"sweep.name=/escape: {NAME}",
         start="recipe"),
    Case("a sweep in a folder of its own", f"{M} 'sweep.name=\"ä/ö\"'", f"sweep.name=ä/ö: {NAME}",
         start="recipe"),
    Case("a sweep of 260 letters", f"{M} sweep.name={'x' * 260}",
         "sweep.name=x+: names a folder, and has 260 bytes", start="recipe"),
    Case("a run of 300 letters", f"sample run={'x' * 300}", "is longer than a path can be"),
    Case("an argument that is no text", "train experiment=\udcff",
         r"experiment=\\udcff: is no UTF-8 text; give the file another name"),
    Case("an argument that is to move the cursor", "tra\x1b[31min",
         r"tra\\x1b\[31min: no such verb"),
    # home folders that are not there, by every kind of option
    Case("a run in no home", "sample 'run=\"~nosuchuser/x\"'", f"run=~nosuchuser/x: {HOME}"),
    Case("results in no home", f"{Q} 'paths.root=\"~nosuchuser/x\"'",
         f"paths.root=~nosuchuser/x: {HOME}"),
    Case("data in no home", "check dataset=image_folder 'dataset.root=\"~nosuchuser/x\"'",
         f"dataset.root=~nosuchuser/x: {HOME}"),
    Case("weights in no home", f"{Q} 'init_from=\"~nosuchuser/x\"'",
         f"init_from=~nosuchuser/x: {HOME}"),
    Case("statistics in no home",
         f"{Q} metric=[frechet] 'metric.frechet.reference=\"~nosuchuser/x\"'",
         f"metric.frechet.reference=~nosuchuser/x: {HOME}"),
    Case("groups in no home", f"{Q} --config-dir ~nosuchuser/x",
         f"argument --config-dir: ~nosuchuser/x: {HOME}"),
    Case("an import from no home", "import ~nosuchuser/x --out made", f"~nosuchuser/x: {HOME}"),
    Case("an export into no home", "export run ~nosuchuser/x",
         f"argument OUT: ~nosuchuser/x: {HOME}"),
    Case("a sweep in no home", "sweep status ~nosuchuser/x", f"^dit-lab: ~nosuchuser/x: {HOME}"),
    Case("the doctor in no home", "doctor 'paths.root=\"~nosuchuser/x\"'",
         f"paths.root=~nosuchuser/x: {HOME}"),
    Case("runs of a report in no home", "report runs=~nosuchuser/x", f"~nosuchuser/x: {HOME}"),
    # paths that nothing has
    Case("results nowhere", f"{Q} paths.root=", "paths.root=: is empty; give a path"),
    Case("images nowhere", "sample run=RUN out=", "out=: is empty; give a path", start="tiny"),
    Case("a path with a zero byte", "train experiment=tiny",
         r"paths.root=a\\x00b: holds a zero byte", prepare=recipe_with('paths: {root: "a\\0b"}\n')),
    Case("results in a folder that MLflow takes for another", f"{Q} paths.root=q?x",
         "tracking.uri=sqlite:///FOLDER/q%3Fx/mlflow.db: MLflow keeps no database in a folder"),
    Case("the same by a percent sign", f"{Q} paths.root=a%20b",
         "sqlite:///FOLDER/a%2520b/mlflow.db: MLflow keeps no database in a folder with"),
    # what is written where something else is
    Case("images in the current folder", "sample run=RUN out=.",
         "out=FOLDER: the current folder lies there", start="tiny"),
    Case("images in the root", "sample run=RUN out=/", "out=/: the current folder lies there",
         start="tiny"),
    Case("images among the files of a run", "sample run=RUN out=RUN",
         r"out=FOLDER/.*: holds \d+ files, among which new images would lie", start="tiny"),
    Case("images among other images", "sample run=RUN out=drawn",
         "out=FOLDER/drawn: holds 1 file, among which new images would lie; choose another name",
         start="tiny", prepare=wrote("drawn/00000-class-3.png", "")),
    Case("latents in the root", f"encode {IMAGES} codec.path=vae out=/",
         "out=/: the current folder lies there", start="latent"),
    Case("a report in the root", "report runs=RUN out=/", "out=/: the current folder lies there",
         start="tiny"),
    Case("a report below a file", "report runs=RUN out=/dev/null/x",
         "out=/dev/null/x: /dev/null is a file; choose a folder", start="tiny"),
    Case("a picture in the place of a folder", "describe experiment=quickstart --picture .",
         "--picture .: is a folder; give the name of a file"),
    Case("a record of speed in the place of a folder",
         "bench experiment=quickstart --only sampling --json .",
         "--json .: is a folder; give the name of a file"),
    Case("a list of bad images in the place of a folder", f"check {IMAGES} out=taken",
         "out=FOLDER/taken: is a folder; give the name of a file", prepare=folder_of_a_file),
    Case("a record of speed that is a folder", "bench --check .",
         "--check .: no record of a bench"),
    Case("an evaluation of a hundred thousand brackets", "evaluate --compare deep.json deep.json",
         r"deep.json: damaged \(nested deeper than 64\)", prepare=deep_json),
    heavy("weights that are a folder", "import made.safetensors --out made",
          "made.safetensors: no folder of diffusers", prepare=folder_of_weights),
    Case("a run that is a folder with the name of a file", "sample run=made.safetensors",
         "run=made.safetensors: has no config.yaml", prepare=folder_of_weights),
    # stores
    Case("a store that is a file of another kind", f"{Q} tracking.uri=sqlite:///FOLDER/some.db",
         "tracking.uri=sqlite:///FOLDER/some.db: is no sqlite database",
         prepare=wrote("some.db", "root:x:0:0\n")),
    Case("a report of a store that is a folder", "report filter=x tracking.uri=sqlite:///FOLDER",
         "tracking.uri=sqlite:///FOLDER: is no sqlite database"),
    heavy("a report of a damaged store", "report filter=x tracking.uri=sqlite:///FOLDER/runs.db",
          r"filter=x: .+ \(tracking.uri=sqlite:///FOLDER/runs.db\)", prepare=damaged_database),
    Case("an address of no server", f"{Q} 'tracking.uri=\"http://[::1\"'",
         r"tracking.uri=http://\[::1: names no server; give https"),
    Case("a port that is no number", f"{Q} tracking.uri=https://host:port", "names no server"),
    # groups
    Case("a member that lies elsewhere", f"{Q} model=../model/s",
         r"model=../model/s: names no member; write model=NAME"),
    Case("a recipe with a member that lies elsewhere", "train experiment=tiny",
         "model=../model/s: is no name of a member of model",
         prepare=wrote("experiments/tiny/recipe.yaml",
                       RECIPE.replace("/model: pico", "/model: ../model/s"))),
    Case("a list without members", f"{Q} metric={{}}",
         r"metric=\{\}: names no member; write metric=\[NAME,...\]"),
    Case("an entry of a list that lies elsewhere", f"{Q} metric=[../metric/fid]",
         "names no member; write metric="),
    Case("a group in another place", f"{Q} +model@training=s",
         r"\+model@training=s: the package of a group cannot be changed"),
    Case("a group that is a mapping", f"{Q} 'model={{hidden_size:3}}'", "names no member"),
    Case("several runs at once", "sample run=A,B",
         "run=A,B: several values at once; give one, and text with a comma as run="),
    Case("a member that is not UTF-8", "train model=mine", "conf/model/mine.yaml: cannot be read",
         prepare=wrote("conf/model/mine.yaml", b"hidden_size: \xff\n")),
    Case("a member that is a list", "train model=mine",
         "conf/model/mine.yaml: expected keys and values",
         prepare=wrote("conf/model/mine.yaml", "- 1\n")),
    Case("a member with tabs", "train model=mine", "conf/model/mine.yaml: line 2: no YAML",
         prepare=wrote("conf/model/mine.yaml", "a:\n\tb: 1\n")),
    Case("a member with a key twice", "train model=mine", "line 2: no YAML .found duplicate key",
         prepare=wrote("conf/model/mine.yaml", "depth: 1\ndepth: 2\n")),
    Case("a member that is a folder", "train model=mine", "model=mine: no such choice",
         prepare=wrote("conf/model/mine.yaml/x", "")),
    # sweeps
    Case("a launcher that is not there", f"{M} hydra/launcher=nonsense",
         "hydra/launcher=nonsense: no such choice; allowed: basic", start="recipe"),
    Case("a setting that a launcher has not", f"{M} hydra/launcher=basic hydra.launcher.jobs=2",
         "Could not override 'hydra.launcher.jobs'", start="recipe"),
    Case("a metric of no kind", f"{M} sweep.metric=eval/nothing",
         "sweep.metric=eval/nothing: no such metric; give eval/loss or one of", start="recipe"),
    Case("a metric of samples that are not measured", f"{M} sweep.metric=eval/recall_pixels_n9",
         "samples are not measured; give evaluation.num_images=N, or sweep.metric=eval/loss",
         start="recipe"),
)
