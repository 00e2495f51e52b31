"""Parameters that several verbs take. A string in `Annotated` is the parameter's help, or "positional"; help that is
longer than the line is under Args in the verb's docstring."""

from pathlib import Path
from typing import Annotated, Literal

Images = Annotated[Path, "positional", "Directory made by collect."]
Out = Annotated[Path, "Directory to make."]
ResumableOut = Annotated[Path, "Directory to make; run again to resume."]
SingleClass = Annotated[str | None, "The class of a folder without class folders."]
Split = Annotated[Literal["train", "val", "test", "all"], "The part of a set that has parts, in any spelling."]
Layout = Annotated[
    str | None, "class-folders, imagenet-tree, imagenet-tar, webdataset, hub-parquet or FILE.py:NAME; told by default."
]
ClassNames = Annotated[
    str | None, "File that names the classes, such as LOC_synset_mapping.txt; without it one in the source."
]
Device = Annotated[str | None, "cuda, mps or cpu; the best there is by default."]
WorkerDevice = Annotated[str | None, "cuda, mps, cpu, or in this process cuda:N; the best there is by default."]
Engine = Annotated[
    Literal["here", "processes", "ray"], "Pretrained networks: in this process, in processes, or on a Ray cluster."
]
Workers = Annotated[int | None, "Processes or Ray actors; one for each GPU by default, without GPUs one for each core."]
Address = Annotated[str | None, "Of the Ray cluster."]
Shard = Annotated[str | None, "i/n: the i-th of n tasks of an array job; the last one to end completes the directory."]
SkipMissing = Annotated[bool, "Leave images without a caption out; they are listed in OUT-missing.csv."]
Reuse = Annotated[Path | None, "Directory made before the set grew: only the difference is made, in OUT."]
Server = Annotated[str | None, "OpenAI-compatible server, such as http://127.0.0.1:8000/v1; its key: OPENAI_API_KEY."]
ExtenderModel = Annotated[
    str | None, "For llm: a repository, folder or name on the server; Llama-3.1 8B Instruct by default."
]
GuidanceScale = Annotated[float, "Default guidance w: uncond + w (cond - uncond)."]
Networks = Annotated[tuple[str, ...], "Weights of the metrics' networks, such as inception=FILE clip=FOLDER."]
Steps = Annotated[int, "Default number of sampling steps."]
