"""How many rows a second the data doctor reads and checks, and the memory it takes.

python benchmarks/data_doctor.py --rows 1000000
python benchmarks/data_doctor.py --rows 200000 --near 0.8
"""

import argparse
import json
import random
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from thinktune.data.inspection import inspect
from thinktune.data.sources import stream_examples

WORDS = """
the a patient fever cough since days with and no pain when walking rest fluids headache throat nose
runny doctor clinic today yesterday likely therefore because first then consider rule out sore
muscles tired sleep water temperature degrees 38.5 39.1 3 four five mild severe sudden
"""
HAN = "病人發燒咳嗽三天喉嚨痛沒有流鼻水昨天開始全身痠痛多喝水休息可能是流感先排除急症再看醫師"
DISEASES = ("common cold", "influenza", "gastroenteritis", "bronchitis")


def rows(num_rows: int, chinese: float) -> Iterator[dict[str, str]]:
    draw = random.Random(7)

    vocabulary = WORDS.split()

    def text(size: int, in_chinese: bool) -> str:
        if in_chinese:
            return "".join(draw.choices(HAN, k=size // 3)) + "。"
        words = draw.choices(vocabulary, k=size // 5)
        return " ".join(words).capitalize() + "."

    for number in range(num_rows):
        han = draw.random() < chinese
        disease = DISEASES[number % len(DISEASES)]
        yield {
            "question": text(180, han),
            "reasoning": f"{text(330, han)} So {disease}.",
            "answer": f"{disease}: {text(80, han)}",
            "reference": disease,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--chinese", type=float, default=0.0, help="share of rows in Chinese")
    parser.add_argument("--near", type=float, help="look for near-duplicates too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "rows.jsonl")
        with path.open("w", encoding="utf-8") as file:
            for row in rows(options.rows, options.chinese):
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        print(f"{options.rows:,} rows, {path.stat().st_size / 2**20:,.0f} MiB")
        seconds: dict[str, float] = {}
        for what in ("lines read", "JSON parsed", "examples made", "inspected"):
            began = time.process_time()
            run(what, path, options.near)
            seconds[what] = time.process_time() - began
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            rate = options.rows / seconds[what]
            print(f"{what:>14}: {rate:>10,.0f} rows/s, peak {peak:,.0f} MiB")


def run(what: str, path: Path, near: float | None) -> None:
    if what == "lines read":
        with path.open(encoding="utf-8") as file:
            sum(1 for _ in file)
    elif what == "JSON parsed":
        with path.open(encoding="utf-8") as file:
            for line in file:
                json.loads(line)
    elif what == "examples made":
        sum(1 for _ in stream_examples(str(path)))
    else:
        inspect(stream_examples(str(path)), near=near)


if __name__ == "__main__":
    main()
