"""What docs/results.md says of each measurement that compares no methods: a sentence, filled from its record."""

from __future__ import annotations

FINDINGS = {
    "fidelity": "After 64 measured programs, Kendall's τ between prediction and measurement is "
    "{kernels[5][stages][2][agreement][tau]:.2f} to {kernels[9][stages][2][agreement][tau]:.2f} over whole recorded "
    "spaces, but {kernels[2][stages][2][agreement][tau]:.2f} to {kernels[3][stages][2][agreement][tau]:.2f} among the "
    "good programs that the search itself picks: the model finds the good region and hardly ranks within it.",
    "latency_accuracy": "Reported latencies differ from long measurements in fresh processes by "
    "{final_error[median]:.1%} in the median and {final_error[max]:.0%} at most, over {programs} programs.",
    "llm_overhead": "A call costs at most {worst_median_secs:.3f} s beside the model's own time (median per kernel).",
    "llm_overlap": "With a model that takes {delay_secs:.0f} s to answer, {samples} samples take "
    "{sequential[wall_secs][median]:.0f} s when each call is awaited, {overlapped[wall_secs][median]:.0f} s when calls "
    "overlap with measurements, and {filled[wall_secs][median]:.0f} s when the expert fills the waiting time. The "
    "expert alone takes {expert[wall_secs][median]:.0f} s.",
    "llm_prompt_tokens": "The paper's prompts use {geomean_ratio:.1f} times as many tokens per measured program as "
    "ours (geometric mean over five kernels; at least {least_ratio:.1f} times).",
    "llm_scripted": "A scripted model that reads the analysis reaches {engineer_over_random[geomean]:.2f} of the "
    "latency of random proposals, faster in {engineer_over_random[wins]} of {engineer_over_random[of]} runs. With a "
    "scripted model that answers nonsense, the search ends at {nonsense_over_expert[geomean]:.2f} of the expert's "
    "latency.",
    "low_precision": "On {kernel}, our latency over PyTorch's best is {rows[0][ours_over_best_of_torch]:.2f} in "
    "{rows[0][dtype]}, {rows[1][ours_over_best_of_torch]:.2f} in {rows[1][dtype]} and "
    "{rows[2][ours_over_best_of_torch]:.2f} in {rows[2][dtype]}.",
    "measuring": "The same 64 candidates of {rows[0][workload]} are measured in {rows[0][ours][wall_secs][0]:.1f} to "
    "{rows[0][ours][wall_secs][2]:.1f} s, those of {rows[1][workload]} in {rows[1][ours][wall_secs][0]:.0f} to "
    "{rows[1][ours][wall_secs][2]:.0f} s.",
    "overhead": "Per measured program, the search takes {rows[0][search_ms]:.0f} ms on {rows[0][workload]}, "
    "{rows[1][search_ms]:.0f} ms on {rows[1][workload]} and {rows[2][search_ms]:.0f} ms on {rows[2][workload]}; "
    "building, running and checking add {rows[2][instrument_ms]:.1f} to {rows[1][instrument_ms]:.1f} ms.",
    "planted_faults": "{candidates} candidates, {planted[none]} of them sound; mistaken: {mistaken}. Left behind: "
    "{leaked_fds} descriptors, {left_processes} processes, {left_files} files.",
    "search_overhead": "In a tree of {rows[2][nodes]} nodes, asking takes {rows[2][ask_ms_per_program][median]:.2f} ms "
    "and telling {rows[2][tell_ms_per_program][median]:.1f} ms per program.",
    "space_overhead": "Editing a program takes {rows[0][edit_ms][wall][median]:.1f} ms on {rows[0][workload]} and "
    "{rows[5][edit_ms][wall][median]:.1f} ms on {rows[5][workload]}; the target of {limit_ms:.0f} ms is missed there.",
    "start_up": "`reasonc --help` takes {help_secs[median]:.2f} s. The first measured sample of "
    "llama3-attention arrives after {first_sample_secs[llama3-attention][median]:.1f} s.",
    "timing_policy": "A program that is timed while one builder works on another core seems "
    "{rows[0][busy_over_idle][ratio]:.1f} times as slow, which is why builds wait.",
    "uneven_experts": "With uneven numbers of tokens per expert, our latency is "
    "{rows[0][ours_over_best_of_torch]:.2f} and {rows[1][ours_over_best_of_torch]:.2f} of PyTorch's best.",
    "wall_time": "{samples} samples of {workload} take {ours_secs[median]:.0f} s; TVM's `tune_tir` takes "
    "{tune_tir_secs[median]:.0f} s.",
}
"""By the name of the record; fields as `str.format` reads them."""
