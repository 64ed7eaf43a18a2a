"""For every test: strict dtypes and ranks, so that nothing is promoted or broadcast by accident.

Programs are compiled once a session, whichever test and process asks for them again, and quickly
rather than well where only behaviour is tested. Tests marked ``fast`` must not compile at all.
"""

import contextlib
import gc
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

OPTIMISED = {"test_golden", "test_implementations"}
"""Modules that hold figures to a tolerance: they run optimised programs, as users do."""
CACHE = "JAX_COMPILATION_CACHE_DIR"
IS_OWNER = CACHE not in os.environ

if IS_OWNER:  # other processes of the session inherit it
    os.environ[CACHE] = tempfile.mkdtemp(prefix="dien_jax-compiled-")
# C++ kernels too: the tests that name them compile them once a session.
os.environ.setdefault("DIEN_KERNELS_CACHE", f"{os.environ[CACHE]}/dien_kernels")
# Not by "auto", where nothing asks for them; DIEN_KERNELS_NATIVE=1 runs all tests with them.
os.environ.setdefault("DIEN_KERNELS_NATIVE", "0")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

# One part a program: more take more time in all, and change no instruction.
flags = [os.environ.get("XLA_FLAGS", ""), "--xla_cpu_parallel_codegen_split_count=1"]
if version("jax").split(".")[:2] == ["0", "10"]:  # the last for Python 3.11
    # XLA's newer way to emit fusions takes most of the time of a compilation; later JAX has no
    # such flag.
    flags.append("--xla_cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join(flags).strip()

import jax  # noqa: E402
import jax.monitoring  # noqa: E402
import pytest  # noqa: E402

with contextlib.suppress(ModuleNotFoundError):  # tests of dien_kernels run without it
    from hypothesis import settings

    settings.register_profile("untimed", deadline=None)
    settings.load_profile("untimed")

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

FAST = (
    "tests/config/",
    "tests/data/",
    "tests/metrics/",
    "tests/preparation/",
    "tests/commands/test_prepare.py",
    "tests/docs/test_architecture.py",
    "tests/docs/test_commands.py",
    "tests/docs/test_style.py",
    "tests/training/test_loggers.py",
    "tests/training/test_reporter.py",
    "tests/test_public_names.py",
)
"""Folders and files whose tests are marked ``fast``."""
SLOWER = (
    "tests/preparation/test_download.py",
    "tests/preparation/test_examples.py",
    "tests/preparation/test_interactions.py",
    "tests/preparation/test_spark.py",
    "tests/preparation/test_spark_session.py",
)
"""Tests among them that are not marked: each takes seconds, by several processes or databases."""
LONG = (
    "tests/benchmarks/",
    "tests/commands/test_terminal.py::test_ctrl_c_while_modules_are_imported_leaves_no_traceback",
    "tests/commands/test_terminal.py::test_prepare_writes_what_the_encoding_lacks_as_escapes",
    "tests/commands/test_train.py::test_histograms_of_large_tables_are_of_rows_evenly_apart",
    "tests/commands/test_train.py::test_run_that_ended_twice_is_one_row_for_tensorboard",
    "tests/commands/test_train.py::test_training_metrics_are_means_over_all_examples",
    "tests/compatibility/",
    "tests/distributed/test_documentation.py",
    "tests/distributed/test_refusals.py",
    "tests/distributed/test_stops_and_resumption.py",
    "tests/docs/test_docs.py",
    "tests/docs/test_example_scripts.py",
    "tests/docs/test_examples.py",
    "tests/experiments/test_baselines.py",
    "tests/experiments/test_comparison.py",
    "tests/experiments/test_reproduction.py",
    "tests/experiments/test_search.py",
    "tests/faults/test_arrays_and_kernels.py",
    "tests/faults/test_disk.py",
    "tests/faults/test_flags.py",
    "tests/faults/test_kills.py",
    "tests/faults/test_logs_and_tables.py",
    "tests/faults/test_more_logs_and_tables.py",
    "tests/faults/test_our_files.py",
    "tests/faults/test_outputs.py",
    "tests/faults/test_run_and_data.py",
    "tests/faults/test_surroundings.py",
    "tests/independent/",
    "tests/inference/test_calibrated.py",
    "tests/inference/test_edited_archive.py",
    "tests/inference/test_ensemble.py",
    "tests/inference/test_export.py",
    "tests/inference/test_host_tables.py",
    "tests/inference/test_own_modules.py",
    "tests/inference/test_ranker.py",
    "tests/inference/test_score_table.py",
    "tests/inference/test_typed_requests.py",
    "tests/inference/test_wrong_requests.py",
    "tests/inspection/",
    "tests/kernels/test_choice.py",
    "tests/kernels/test_chunks.py",
    "tests/kernels/test_implementations.py::test_oracle_follows_the_equations",
    "tests/kernels/test_imports.py",
    "tests/kernels/test_interpreted.py",
    "tests/kernels/test_native_builds.py",
    "tests/kernels/test_native_candidates.py",
    "tests/kernels/test_native_library.py::test_a_library_that_was_cut_short_is_compiled_again",
    "tests/kernels/test_native_library.py::test_a_library_without_kernels_for_the_processor",
    "tests/kernels/test_native_library.py::test_a_user_without_a_home_compiles",
    "tests/kernels/test_native_library.py::test_in_a_folder_that_cannot_be_written_to",
    "tests/kernels/test_native_library.py::test_two_processes_that_start_at_once_compile_once",
    "tests/kernels/test_native_library.py::test_what_a_killed_process_left_is_removed",
    "tests/kernels/test_native_networks.py",
    "tests/kernels/test_properties.py",
    "tests/kernels/test_shared_history.py",
    "tests/model/test_auxiliary.py::test_value_and_gradients_do_not_depend_on_blocks",
    "tests/model/test_ensemble.py::test_each_network_takes_the_step_that_it_takes_alone",
    "tests/model/test_factors.py::test_one_history_serves_all_candidates",
    "tests/model/test_factors.py::test_training_examples_read_the_tables",
    "tests/model/test_golden.py::test_authors_form_gives_their_figures[agru",
    "tests/model/test_golden.py::test_authors_form_gives_their_figures[aigru",
    "tests/model/test_golden.py::test_authors_form_gives_their_figures[dien-reference",
    "tests/model/test_golden.py::test_authors_form_gives_their_figures[gru_att",
    "tests/model/test_golden.py::test_authors_form_gives_their_figures[pnn",
    "tests/model/test_golden.py::test_authors_form_gives_their_figures[wide_deep",
    "tests/model/test_golden.py::test_the_papers_gates_are_told_from_theirs",
    "tests/model/test_golden.py::test_uniform_attention_is_told_from_theirs",
    "tests/model/test_interest.py::test_bfloat16_is_what_networks_compute_in_and_nothing_else",
    "tests/model/test_interest.py::test_score_does_not_depend_on_batch_mates_or_padding",
    "tests/model/test_recurrence.py",
    "tests/preparation/test_alimama.py",
    "tests/preparation/test_amazon.py",
    "tests/preparation/test_any_bytes.py",
    "tests/preparation/test_extend.py",
    "tests/preparation/test_forgetting.py",
    "tests/preparation/test_impressions.py",
    "tests/preparation/test_interactions.py::test_no_example_sees_a_later_event",
    "tests/preparation/test_interactions_refusals.py",
    "tests/preparation/test_movielens.py",
    "tests/preparation/test_noise.py",
    "tests/preparation/test_separators.py",
    "tests/preparation/test_spark.py::test_extension_that_forgets",
    "tests/preparation/test_spark.py::test_movielens_and_alimama",
    "tests/preparation/test_spark.py::test_taobao_and_amazon",
    "tests/preparation/test_synthetic.py::test_processes_that_need_the_built_in_data",
    "tests/preparation/test_taobao.py",
    "tests/preparation/test_times.py",
    "tests/preparation/test_training_values.py",
    "tests/runs/test_calibration.py",
    "tests/runs/test_checkpoints.py",
    "tests/server/test_app.py::test_an_exported_file_ranks_like_its_run",
    "tests/server/test_app.py::test_requests_generated_from_openapi",
    "tests/server/test_hot_reload.py",
    "tests/server/test_under_load.py::test_every_check_and_phase_of_schemathesis_passes",
    "tests/server/test_under_load.py::test_hostile_clients_do_not_keep_others_out",
    "tests/server/test_under_load.py::test_reloads_under_load_lose_no_request",
    "tests/sharded/",
    "tests/steps/test_embedding_rows.py",
    "tests/steps/test_rank.py",
    "tests/steps/test_train.py::test_a_shown_item_equal_to_the_positive_is_masked",
    "tests/steps/test_train.py::test_filler_rows_change_nothing",
    "tests/steps/test_train.py::test_shown_items",
    "tests/steps/test_train.py::test_the_authors_preset_makes_a_step",
    "tests/steps/test_train.py::test_the_loss_falls",
    "tests/steps/test_train.py::test_unknown_users_train_the_row_that_held_out_users_share",
    "tests/steps/test_train.py::test_what_dien_is_compared_with_learns",
    "tests/training/test_choices.py::test_large_tables_take_lazy_adam",
    "tests/training/test_choices.py::test_many_examples_take_the_keyed_order",
    "tests/training/test_ensemble.py",
    "tests/training/test_logistic_regression.py",
    "tests/training/test_resume.py",
    "tests/training/test_run.py::test_run_can_be_stopped_and_resumed",
    "tests/training/test_trackers.py",
    "tests/training/test_warm_start.py",
    "tests/utils/test_compile_cache.py",
)
"""Tests that are marked ``long``: whole studies, pages and runs, and what compiles most."""

FIRST = ("tests/sharded/",)
"""Files of a few tests that take minutes each. They begin, or workers that share files out would be
left with one at the end."""

LONGEST = (
    "tests/benchmarks/test_incremental.py::test_each",
    "tests/benchmarks/test_incremental.py::test_model",
    "tests/benchmarks/test_incremental.py::test_update",
    "tests/benchmarks/test_quality.py::test_quality",
    "tests/benchmarks/test_scaling.py::test_each",
    "tests/distributed/test_documentation.py::test_two_shells",
    "tests/distributed/test_stops_and_resumption.py::test_a_process_that_hangs_as_it_saves",
    "tests/distributed/test_stops_and_resumption.py::test_a_process_that_is_killed_ends_the_other_and_loses_no_checkpoint[0",
    "tests/distributed/test_stops_and_resumption.py::test_one_process_is_resumed_by_two",
    "tests/distributed/test_stops_and_resumption.py::test_rows_that_a_process_cannot_write",
    "tests/docs/test_example_scripts.py::test_a_daily_job",
    "tests/docs/test_example_scripts.py::test_a_log_becomes",
    "tests/experiments/test_reproduction.py::test_study_without_a_test_split",
    "tests/inference/test_host_tables.py::test_an_export_from_the_device",
    "tests/inference/test_host_tables.py::test_inspection",
    "tests/kernels/test_native_builds.py::test_every_instruction_set_agrees_with_the_oracle[plain",
    "tests/server/test_hot_reload.py::test_reload_drops_no_request",
    "tests/training/test_resume.py::test_run_that_updates_rows_ends_as_one_never_stopped",
)
"""Tests among them that are ``slow``: whole programs whose parts other tests run."""

SAMPLED = {
    "tests/docs/test_examples.py::test_public_names_have_an_example_that_runs": 3,
    "tests/experiments/test_search.py::test_estimators_learn_from_the_trials_before": 2,
    "tests/faults/test_disk.py": 20,
    "tests/faults/test_flags.py": 20,
    "tests/faults/test_kills.py": 20,
    "tests/faults/test_logs_and_tables.py": 20,
    "tests/faults/test_more_logs_and_tables.py": 10,
    "tests/faults/test_our_files.py": 20,
    "tests/faults/test_outputs.py": 20,
    "tests/faults/test_surroundings.py": 10,
    "tests/inference/test_host_tables.py::test_evaluations_are_equal": 3,
    "tests/inference/test_own_modules.py::test_own_modules_train_rank_export_and_serve": 2,
    "tests/inference/test_ranker.py::test_scores_are_those_of_an_evaluation": 5,
    "tests/inference/test_score_table.py::test_histories_come_from_the_data_folder": 2,
    "tests/kernels/test_chunks.py::test_values_and_gradients_are_the_oracles": 4,
    "tests/kernels/test_chunks.py::test_vmap_is_a_loop": 4,
    "tests/kernels/test_interpreted.py::test_kernels_agree_with_the_oracle": 5,
    "tests/kernels/test_native_builds.py::test_no_read_or_write_outside_of_the_arrays": 5,
    "tests/model/test_auxiliary.py::test_value_and_gradients_do_not_depend_on_blocks": 4,
    "tests/model/test_golden.py::test_authors_form_gives_their_figures[": 2,
    "tests/model/test_golden.py::test_the_papers_gates_are_told_from_theirs": 3,
    "tests/model/test_golden.py::test_uniform_attention_is_told_from_theirs": 3,
    "tests/model/test_interest.py::test_score_does_not_depend_on_batch_mates_or_padding": 2,
    "tests/model/test_recurrence.py::test_losses_and_gradients_are_the_oracles": 3,
    "tests/preparation/test_interactions_refusals.py::test_a_malformed_line_is_left_out": 3,
    "tests/preparation/test_times.py::test_one_time_that_is_no_time_is_left_out": 2,
    "tests/runs/test_checkpoints.py::test_kill_at_any_moment_of_a_save": 2,
    "tests/steps/test_rank.py::test_interests_are_those_of_a_history_for_every_candidate": 3,
    "tests/steps/test_train.py::test_the_loss_falls": 5,
    "tests/steps/test_train.py::test_what_dien_is_compared_with_learns": 3,
    "tests/training/test_logistic_regression.py::test_training_leaves_it_as_it_is": 3,
    "tests/training/test_trackers.py": 3,
}
"""Tests of many cases among them, and N: one case in N is ``long``, the others are ``slow``."""

REPOSITORY = (
    "tests/benchmarks/",
    "tests/distributed/test_documentation.py",
    "tests/docs/test_architecture.py",
    "tests/docs/test_commands.py",
    "tests/docs/test_docs.py",
    "tests/docs/test_example_scripts.py",
    "tests/docs/test_style.py",
    "tests/experiments/test_reproduction.py",
    "tests/inference/test_export.py::test_the_page_runs_and_its_middle_without_this_package",
    "tests/inference/test_own_modules.py",
    "tests/kernels/test_imports.py",
    "tests/preparation/test_memory.py",
    "tests/server/test_command.py::test_flags_and_requests_of_the_serving_page",
    "tests/sharded/",
)
"""Tests of what is no part of the packages: pages, benchmarks, sources. They are left out where the
packages are installed and ``tests/`` is alone, as in ``.ci/wheel``."""
IS_ALONE = not (Path(__file__).parents[1] / "dien_jax").is_dir()

_compiled: list[str] = []
"""Events of programs that were compiled in this process."""


def _note(event: str, duration: float, **details: object) -> None:
    if event == "/jax/core/compile/backend_compile_duration":
        _compiled.append(event)


jax.monitoring.register_event_duration_secs_listener(_note)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Import no file that has no test of those chosen: that alone takes seconds."""
    if collection_path.suffix != ".py":
        return None
    path = collection_path.relative_to(Path(__file__).parents[1]).as_posix()
    if IS_ALONE and path.startswith(tuple(n for n in REPOSITORY if "::" not in n)):
        return True
    match config.option.markexpr:
        case "fast":
            is_other = not path.startswith(FAST) or path.startswith((*SLOWER, *LONG))
        case "long":
            is_other = not path.startswith(tuple(n.partition("::")[0] for n in LONG))
        case "not slow and not long":
            is_other = path.startswith(LONG)
        case _:
            is_other = False
    return is_other or None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests ``fast``, ``long`` or ``slow`` by the lists above, and begin with ``FIRST``."""
    seen: set[str] = set()
    if IS_ALONE:
        items[:] = [item for item in items if not _name(item).startswith(REPOSITORY)]
    items.sort(key=lambda item: not _name(item).startswith(FIRST))
    for item in items:
        name = _name(item)
        if name.startswith("tests/faults/"):
            item.add_marker("faults")
        if item.get_closest_marker("slow"):
            continue
        if name.startswith(LONG):
            is_long = _is_in_sample(name, seen) and not name.startswith(LONGEST)
            item.add_marker("long" if is_long else "slow")
        elif name.startswith(FAST) and not name.startswith(SLOWER):
            item.add_marker("fast")


def _name(item: pytest.Item) -> str:
    """Return the name of a test as the lists above have it."""
    return f"{item.path.relative_to(Path(__file__).parents[1]).as_posix()}::{item.name}"


def _is_in_sample(name: str, seen: set[str]) -> bool:
    """Return whether a test is the first of its entry of ``SAMPLED``, drawn, or of no entry."""
    for entry, size in SAMPLED.items():
        if name.startswith(entry):
            is_first = entry not in seen
            seen.add(entry)
            return is_first or zlib.crc32(name.encode()) % size == 0
    return True


def pytest_collection_finish() -> None:
    """Collect garbage more seldom, and not among modules: tracing makes many small objects."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def pytest_unconfigure() -> None:
    """Remove the compiled programs."""
    if IS_OWNER:
        shutil.rmtree(os.environ[CACHE], ignore_errors=True)


@pytest.fixture(autouse=True)
def no_compilation_in_fast_tests(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that is marked ``fast`` and compiles a program."""
    before = len(_compiled)
    yield
    if request.node.get_closest_marker("fast"):
        assert len(_compiled) == before, "a test marked fast compiled a program"


@pytest.fixture(autouse=True, scope="module")
def quick_compilation(request: pytest.FixtureRequest) -> Iterator[None]:
    """Compile in a fraction of the time, to slower programs, in child processes too."""
    if request.module.__name__.rpartition(".")[2] in OPTIMISED:
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
        jax.config.update("jax_disable_most_optimizations", True)
        yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset folder of ``tiny_run``, to be read only."""
    from support import tiny_run  # not in conftest's first lines: it imports most of the package

    return tiny_run.write_data(tmp_path_factory.mktemp("data") / "tiny")
