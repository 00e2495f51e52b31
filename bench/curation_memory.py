"""Memory and time of augment and caption (aio) on many rows: `python bench/curation_memory.py [ROWS]`.

Makes images.parquet of ROWS synthetic rows (a million by default) in 1000 classes, without images, and runs both
stages on it in a process of their own. Prints seconds and the peak of that process's resident memory.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tessera.curate.index import images_schema
from tessera.files import writing_rows
from tessera.stages import open_stage

WORK = """
import resource, sys, time
from pathlib import Path
from tessera.curate.augment import AugmentConfig, augment
from tessera.curate.caption.caption import CaptionConfig, caption
folder = Path(sys.argv[1])
for name, work in (
    ("augment", lambda: augment(folder / "recipe", folder / "images", AugmentConfig())),
    ("caption", lambda: caption(folder / "captions", folder / "images", CaptionConfig(), recipe=folder / "recipe")),
):
    start = time.monotonic()
    work()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{name:8} {time.monotonic() - start:6.1f} s   peak so far {peak:.2f} GiB", flush=True)
"""


def main(count: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = folder / "images"
        stage = open_stage(images, stage="collect", config={"size": 256})
        with writing_rows(images / "images.parquet", images_schema()) as write:
            for i in range(count):
                label = f"n{i % 1000:08d}"
                key = f"{label}/{label}_{i:07d}"
                write([(key, f"class {i % 1000}", f"{key}.png", 500, 375, f"{key}.JPEG", None)])
        stage.finish({"images": count})
        start = time.monotonic()
        subprocess.run([sys.executable, "-c", WORK, name], check=True)
        print(f"{count} rows through both: {time.monotonic() - start:.1f} s with starting Python")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
