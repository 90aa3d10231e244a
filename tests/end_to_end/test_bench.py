"""`thinktune bench step`, as a user types it."""

import json

import pytest
from typer.testing import CliRunner

from thinktune.cli import app
from thinktune.errors import ConfigError

RUN = CliRunner()


def test_bench_step_times_steps_that_train():
    done = RUN.invoke(app, ["bench", "step", "--shape", "tiny", "--documents", "3x17", "--steps",
                            "2", "--dtype", "float32", "--json"])  # fmt: skip
    assert done.exit_code == 0, done.output
    told = json.loads(done.output.strip().splitlines()[-1])
    assert told["tokens_per_second"] == pytest.approx(3 * 17 / told["milliseconds"] * 1e3)
    assert told["target_tokens_per_second"] == pytest.approx(told["tokens_per_second"] * 16 / 17)
    assert told["kept"] == "2 x all"
    assert told["attention"] == "pytorch, one document at a time"


def test_bench_step_says_where_the_time_went():
    done = RUN.invoke(app, ["bench", "step", "--shape", "tiny", "--documents", "lognormal:40",
                            "--steps", "1", "--profile", "--dropout", "0.1"])  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "busy for" in done.output
    assert "aten::mm" in done.output


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--shape", "gpt-2"], "no shape 'gpt-2'; known: llama-3.1-8b"),
        (["--shape", "tiny", "--documents", "many"], "documents 'many'"),
        (["--shape", "tiny", "--keep", "some"], "--keep: 'some' is none of all, host"),
    ],
)
def test_bench_step_refuses_what_it_does_not_know(options, told):
    done = RUN.invoke(app, ["bench", "step", *options])
    assert isinstance(done.exception, ConfigError)
    assert told in str(done.exception)
