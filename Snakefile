"""The pipeline: every notebook by papermill, then the book. `make book` calls it; so can a cluster.

    snakemake                                     one machine (profiles/default is part of every call)
    snakemake --profile profiles/slurm            a Slurm cluster
    snakemake ... --config profile=quick jobs=4   another profile, more runs side by side
    snakemake ... --config profile=full shards=8  each sweep in eight parts, a job each
"""

import os
import sys
import threading
import time
from pathlib import Path

import yaml
from filelock import FileLock, Timeout

PROFILE = config.get("profile", "published")
JOBS = int(config.get("jobs", 1))
SHARDS = int(config.get("shards", 1))
ROUNDS = (1, 2)  # a sweep that depends on a search is split twice: first the search, then the rest
NOTEBOOKS = sorted(p.stem for p in Path("notebooks").glob("*.ipynb"))  # found, not listed
NORMALIZERS = sorted(p.stem for p in Path("notebooks/normalizers").glob("*.ipynb"))
LAB = [str(p) for folder in ("normcore", "notebooks") for p in sorted(Path(folder).rglob("*.py"))]
BENCHMARKS = sorted(map(str, [*Path("data/benchmarks").glob("*.json"), *Path("data").glob("*.json")]))
with open("book/claims.yml", encoding="utf-8") as ledger:
    STATEMENTS = [claim["id"].lower() for claim in yaml.safe_load(ledger)["claims"]]
with open("book/advice.yml", encoding="utf-8") as advice:
    LAYERS = list(yaml.safe_load(advice))
GENERATED = [
    *("front.md", "documents.md", "cite.md", "claims.md", "guide.md", "newcomers.md", "newcomers_standing.md", "status.md", "speed.md"),
    *("catdog.md", "catdog_overview.md", "promises.md", "reference-batch.md", "networks.md", "what-else.md", "explorer.md", "beside.md", "statistics.md", "faults.md", "verdicts.json"),
]
MATHJAX = "book/_assets/mathjax/tex-chtml.js"


def beside(name):
    """The profiles of an experiment that are published beside the best, which its page shows; smoke judges nothing."""
    folder = Path("data/results", name.replace("_", "-"), "profiles")
    there = [p for p in ("quick", "half", "full") if (folder / f"{p}.json").is_file()]
    return there[:-1] if PROFILE == "published" else []


BESIDE = [f"book/runs/{profile}/{name}.ipynb" for name in NOTEBOOKS for profile in beside(name)]


wildcard_constraints:
    name="[^/]+",


resource_scopes:
    gpu="local",  # profiles/default counts the GPUs of one machine, not those of a cluster


if workflow.is_main_process:  # not a job of it
    # The system lets go of this lock when its holder dies, however it dies; Snakemake's own would stay (nolock).
    LOCK, HOLDER = FileLock(".snakemake/build.lock"), Path(".snakemake/build.pid")
    HOLDER.parent.mkdir(exist_ok=True)
    try:
        LOCK.acquire(timeout=0)
    except Timeout:
        sys.exit(f"another build is at work here, process {HOLDER.read_text()}: wait for it, or end it")
    HOLDER.write_text(str(os.getpid()))
    for left in Path("book/runs").glob("*/*.ipynb"):  # of a build of another profile
        if left.as_posix() not in BESIDE:
            left.unlink()
    for folder in ("runs", "normalizers", "_generated"):
        for left in Path("book", folder).rglob(".*.*"):  # half-written, by a build that was killed
            left.unlink()

    def end_with(parent):
        """End at once when the parent, `make`, does."""
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    if parent := os.environ.get("NORMCORE_PARENT"):
        threading.Thread(target=end_with, args=[int(parent)], daemon=True).start()

os.environ["NORMCORE_PARENT"] = str(os.getpid())  # jobs end with this process, their parent by `exec`


localrules:
    all,
    beside,
    pages,
    mathjax,
    normalizer,
    html,


PUBLISHED = Path("data/results")
OWN = Path(os.environ.get("NORMCORE_RESULTS") or "results")
if PROFILE == "published":  # one's own runs have no part in that book: not in its notebooks, not in its ledger
    OWN = PUBLISHED
    os.environ["NORMCORE_RESULTS"] = str(PUBLISHED.resolve())


def results(wildcards):
    """The folders of results, published and one's own: one more there makes the notebook be executed again. Of the
    thousands of files Snakemake would ask the sizes over and over while it waits."""
    folders = [store / wildcards.name.replace("_", "-") for store in {PUBLISHED, OWN}]
    return sorted(str(p) for f in folders for p in (f, f / "profiles") if p.is_dir())


def unpublished(wildcards):
    """Whether nothing is published of an experiment whose published runs are asked for: its page then is smoke's, and
    says so."""
    index = PUBLISHED / wildcards.name.replace("_", "-") / "profiles"
    return PROFILE == "published" and not any(index.glob("*.json"))


def parts(name, round):
    """The markers of a round's shards; none when the sweep is not split."""
    numbers = range(1, SHARDS + 1) if SHARDS > 1 and round in ROUNDS else []
    return [f"book/runs/shards/{name}.{round}.{i}-of-{SHARDS}" for i in numbers]


rule all:
    input:
        "_build/html/index.html",
    default_target: True


rule shard:
    """One part of a sweep; all parts write to the same store, and the notebook then only reads."""
    input:
        "notebooks/{name}.ipynb",
        before=lambda w: parts(w.name, int(w.round) - 1),
    output:
        touch("book/runs/shards/{name}.{round}.{i}-of-{n}"),
    params:
        experiment=lambda w: w.name.replace("_", "-"),
        profile=PROFILE,
        jobs=JOBS,
    resources:
        gpu=1,
    shell:
        "exec normcore run {params.experiment} --profile {params.profile} --jobs {params.jobs}"
        " --shard {wildcards.i}/{wildcards.n}"


rule notebook:
    """Execute one experiment; the runs that are published or among one's own are not run again, and in the profile
    published nothing is run but the smoke of what is not published yet."""
    input:
        "notebooks/{name}.ipynb",
        "data/datasets.yaml",
        "book/claims.yml",
        LAB,
        profiles=lambda w: [p for p in [f"notebooks/{w.name}.yaml"] if Path(p).is_file()],
        results=results,
        shards=lambda w: parts(w.name, ROUNDS[-1]),
    output:
        "book/runs/{name}.ipynb",
    params:
        experiment=lambda w: w.name.replace("_", "-"),
        profile=lambda w: "smoke" if unpublished(w) else PROFILE,
        store=lambda w: "_build/smoke" if unpublished(w) else OWN.resolve(),
        jobs=JOBS,
    resources:
        gpu=lambda w: int(PROFILE != "published" or unpublished(w)),  # what only shows results trains nothing
    shell:
        "NORMCORE_RESULTS={params.store} exec"
        " normcore run {params.experiment} --profile {params.profile} --jobs {params.jobs} --to book/runs"


rule beside:
    """Execute one experiment with another profile that is published too; nothing is run."""
    input:
        "notebooks/{name}.ipynb",
        "data/datasets.yaml",
        "book/claims.yml",
        "notebooks/{name}.yaml",
        LAB,
        results=results,
    output:
        "book/runs/{profile}/{name}.ipynb",
    params:
        experiment=lambda w: w.name.replace("_", "-"),
    shell:
        "exec normcore run {params.experiment} --profile {wildcards.profile} --no-train --to book/runs/{wildcards.profile}"


rule normalizer:
    """Execute a page on a normalizer: seconds, nothing is trained and no result is kept."""
    input:
        "notebooks/normalizers/{name}.ipynb",
        LAB,
    output:
        "book/normalizers/{name}.ipynb",
    shell:
        "exec normcore page {input[0]} --to book/normalizers"


rule pages:
    """The generated parts of pages: the summary, the ledger, the status, the speed."""
    input:
        expand("book/runs/{name}.ipynb", name=NOTEBOOKS),
        "book/claims.yml",
        "book/newcomers.yml",
        "book/guide.yml",
        "book/advice.yml",
        "data/results/history.yml",
        "book/_toc.yml",
        [f"notebooks/normalizers/{name}.ipynb" for name in LAYERS],
        BENCHMARKS,
        LAB,
    output:
        expand("book/_generated/{part}", part=GENERATED),
        expand("book/_generated/answer_{name}.md", name=NOTEBOOKS),
        expand("book/_generated/{part}_{name}.md", part=["advice", "everywhere"], name=LAYERS),
        expand("book/statements/{id}.md", id=STATEMENTS),
        expand("book/_assets/runs/{name}.js", name=[name.replace("_", "-") for name in NOTEBOOKS]),
    shell:
        "exec normcore book"


rule mathjax:
    """MathJax from its installed package, so that the book asks no other host for it."""
    output:
        MATHJAX,
    run:
        import shutil
        from importlib.metadata import distribution

        wanted = ("/tex-chtml.js", "/output/chtml/fonts/woff-v2/")
        for file in distribution("sphinx-mathjax-offline").files:
            _, found, inside = str(file).partition("static/mathjax/")
            if found and f"/{inside}".startswith(wanted):
                target = Path(MATHJAX).parent / inside
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file.locate(), target)


rule html:
    """Warnings are errors: a broken link or reference stops the build."""
    input:
        expand("book/runs/{name}.ipynb", name=NOTEBOOKS),
        expand("book/normalizers/{name}.ipynb", name=NORMALIZERS),
        BESIDE,
        rules.pages.output,
        MATHJAX,
        "_config.yml",
        "book/_toc.yml",
        "book/references.bib",
        [str(p) for p in sorted(Path("book").glob("*.md"))],
        [str(p) for p in sorted(Path("book/_assets").glob("*.*"))],
    output:
        "_build/html/index.html",
    shell:
        "exec python -m normcore.lab.lifetime"
        " jupyter-book build book --config _config.yml --path-output . --all -W -n --keep-going --quiet"
