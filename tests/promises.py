"""What is promised of faults and of security, and the test that shows it: the source of two pages in `docs/`.

    python tests/promises.py        writes docs/faults.md and docs/security.md

`tests/test_promises.py` fails when a named test is gone or a page is not what this says.
"""

# ruff: noqa: E501 - one promise, one line
from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]


class Promise(NamedTuple):
    """`tests`: `FILE::NAME` below `tests/`, separated by spaces; empty: `answer` says why there is none."""

    what: str
    answer: str
    tests: str = ""


_OTLP = "core/decode/test_otlp.py::"
_JSON = "core/decode/test_otlp_json.py::"
_HTTP = "edge/receive/test_http.py::"
_GRPC = "edge/receive/test_grpc.py::"
_SAFE = "edge/receive/test_security.py::"
_JOURNAL = "edge/test_journal.py::"
_DEST = "edge/export/test_destination.py::"
_SPILL = "edge/export/test_spill.py::"
_FAULTS = "flow/test_faults.py::"
_USAGE = "core/normalise/test_usage.py::"
_RUN = "core/assemble/test_run.py::"
_FIX = "flow/test_corrections.py::"
_GATE = "edge/serve/test_gate.py::"

FAULTS = (
    Promise(
        "empty body",
        "success",
        f"{_HTTP}test_nothing_in_it_succeeds {_GRPC}test_an_empty_request_succeeds_and_leaves_no_record",
    ),
    Promise("zero resource spans, empty scopes", "success", f"{_OTLP}test_nothing_in_it_is_fine"),
    Promise(
        "random bytes",
        "gRPC INVALID_ARGUMENT, HTTP 400, one metric",
        f"{_GRPC}test_noise_is_invalid_argument_and_says_why {_OTLP}test_noise_is_decoded_rejected_or_refused_but_never_crashes",
    ),
    Promise("truncated protobuf", "400", f"{_HTTP}test_a_truncated_request_is_400"),
    Promise(
        "valid protobuf of another signal",
        "as far as it decodes, else 400; never a crash",
        f"{_OTLP}test_another_signal_never_crashes",
    ),
    Promise(
        "unknown fields and keys",
        "accepted; protobuf ones are forwarded",
        f"{_DEST}test_bytes_arrive_exactly_with_ours_behind {_OTLP}test_envelopes_keep_schema_urls_counts_and_unknown_fields",
    ),
    Promise(
        "JSON with snake_case keys",
        "success, no spans, `otel_cost_receiver_json_ignored_keys_total`",
        f"{_JSON}test_unknown_and_snake_case_keys_are_ignored_and_counted_on_every_level {_HTTP}test_json_notes_are_counted",
    ),
    Promise(
        "JSON enum names",
        "taken and counted; refused where strict",
        f"{_JSON}test_enum_names_are_counted_or_refused_when_strict",
    ),
    Promise("JSON int64 as number above 2^53 or as text", "exact", f"{_JSON}test_64_bit_numbers_are_exact"),
    Promise("JSON hex in upper or lower case", "the same id", f"{_JSON}test_json_says_the_same_as_protobuf"),
    Promise(
        "base64 id in JSON", "the span is rejected", f"{_JSON}test_what_no_record_can_hold_rejects_that_record_only"
    ),
    Promise(
        "trace id of zeros, 15 or 17 bytes",
        "partial success",
        f"{_OTLP}test_one_bad_span_is_rejected_alone {_GRPC}test_bad_spans_are_a_partial_success",
    ),
    Promise("span id of zeros", "partial success", f"{_OTLP}test_one_bad_span_is_rejected_alone"),
    Promise(
        "parent is the span itself",
        "accepted, counted once",
        f"{_FAULTS}test_odd_trees_and_times_count_every_call_once",
    ),
    Promise(
        "parents in a circle",
        "a tree without an endless walk; every call counts",
        f"{_RUN}test_cycle_of_parents_ends {_RUN}test_calls_in_a_circle_are_calls_all_the_same {_FAULTS}test_odd_trees_and_times_count_every_call_once",
    ),
    Promise(
        "parent never arrives",
        "the orphan belongs to its trace and counts",
        f"{_FAULTS}test_odd_trees_and_times_count_every_call_once",
    ),
    Promise("two roots", "both kept", f"{_FAULTS}test_odd_trees_and_times_count_every_call_once"),
    Promise(
        "same (trace, span) twice, equal",
        "counted once",
        f"{_RUN}test_resent_span_counts_once_and_the_richer_copy_speaks flow/test_backend_down.py::test_the_books_balance_whatever_was_sent",
    ),
    Promise(
        "same ids, different content",
        "the richer copy counts, whichever came first, flagged `conflict`; the journal keeps both",
        f"{_FIX}test_a_resend_that_says_otherwise_is_a_conflict_and_the_richer_copy_counts",
    ),
    Promise(
        "duplicate attribute keys",
        "the last wins; not counted: it would cost a look at every key",
        f"{_OTLP}test_the_last_of_equal_keys_wins",
    ),
    Promise(
        "values nested 10,000 deep",
        "that span is rejected, no stack overflows",
        "core/decode/test_limits.py::test_too_much_is_rejected_alone",
    ),
    Promise(
        "attribute of 50 MB",
        "a record above 32 MiB is rejected",
        "core/decode/test_limits.py::test_too_much_is_rejected_alone",
    ),
    Promise(
        "100,000 attributes, events or links",
        "the span is rejected, not cut: what goes on is what was sent",
        "core/decode/test_limits.py::test_too_much_is_rejected_alone",
    ),
    Promise(
        "invalid UTF-8 in text",
        "that span is rejected, naming the field",
        f"{_OTLP}test_the_rejection_names_the_field {_JSON}test_bytes_that_are_no_utf8_reject_the_record_that_has_them",
    ),
    Promise(
        "NUL bytes, control characters",
        "kept in data, escaped where people read",
        f"{_OTLP}test_odd_but_valid_times_kinds_and_characters_are_kept edge/notify/test_sinks.py::test_console_sink_keeps_control_characters_from_the_terminal",
    ),
    Promise("end before start", "accepted, priced", f"{_FAULTS}test_odd_trees_and_times_count_every_call_once"),
    Promise(
        "times 0, 1970, 2262, in the future",
        "accepted; before the first price: unpriced",
        f"{_FAULTS}test_odd_trees_and_times_count_every_call_once",
    ),
    Promise(
        "token counts negative, NaN, 1e18, text, float",
        "`invalid` with its reason; a whole number as text is read",
        f"{_USAGE}test_a_count_is_a_whole_number_however_it_is_written {_USAGE}test_what_contradicts_itself_is_refused_and_not_clamped",
    ),
    Promise(
        "cache larger than input",
        "exclusive counting where the provider counts so, else `invalid`",
        f"{_USAGE}test_cache_above_input_proves_exclusive_where_the_provider_counts_so {_USAGE}test_cache_above_input_is_impossible_elsewhere",
    ),
    Promise(
        "unknown model",
        "unpriced, said, never 0",
        "flow/test_order.py::test_an_unknown_model_is_unpriced_and_said_so flow/test_policy.py::test_a_model_without_a_price_is_said_once_for_each_tenant_and_not_where_it_is_switched_off",
    ),
    Promise(
        "usage on parent and child",
        "the leaf only",
        f"{_RUN}test_agent_rollup_does_not_bill_when_something_below_it_tells {_RUN}test_wrapper_with_the_same_usage_is_one_call",
    ),
    Promise(
        "late span after its trace was closed",
        "priced, budget follows, correction event",
        f"{_FIX}test_a_late_twin_that_tells_more_corrects {_FIX}test_a_budget_follows_what_is_corrected",
    ),
    Promise(
        "span three days late",
        "the same, in its own window",
        f"{_FIX}test_days_later_a_twin_wakes_its_run_and_keeps_its_row core/budget/test_budgets.py::test_a_late_charge_counts_in_its_own_day",
    ),
    Promise(
        "a trace of 1,000,000 spans",
        "memory holds `engine.caps.open_spans`; what is beyond sleeps and wakes; others do not notice",
        f"{_FAULTS}test_a_huge_trace_is_put_to_sleep_and_others_do_not_notice",
    ),
    Promise(
        "one tenant floods",
        "429 / RESOURCE_EXHAUSTED with RetryInfo for that tenant, others go on",
        "edge/receive/test_pressure.py::test_a_flood_of_one_tenant_leaves_room_for_the_others edge/receive/test_pressure.py::test_a_quota_lets_bursts_through_and_then_says_when flow/test_overload.py::test_a_greedy_tenant_waits_and_a_small_one_does_not",
    ),
    Promise(
        "gzip bomb",
        "413 at the limit, memory flat",
        f"{_HTTP}test_a_bomb_is_413_at_the_limit {_GRPC}test_too_large_is_not_retryable_before_and_after_decompression",
    ),
    Promise(
        "zstd bomb, huge window",
        "413",
        f"{_SAFE}test_a_zstd_bomb_is_413_and_memory_stays_flat {_SAFE}test_a_zstd_frame_that_claims_a_huge_window_is_413",
    ),
    Promise("encoding on encoding", "415", f"{_HTTP}test_other_encodings_are_415_and_told_what_is_read"),
    Promise("Content-Encoding that the body is not", "400", f"{_HTTP}test_a_body_that_is_not_of_its_encoding_is_400"),
    Promise(
        "Content-Length lies",
        "400 or time-out; nothing is stored",
        f"{_HTTP}test_a_body_shorter_than_told_stores_nothing {_HTTP}test_a_body_longer_than_told_is_refused_after_the_told_part",
    ),
    Promise(
        "slow-loris, header or body",
        "closed by time-out",
        f"{_HTTP}test_headers_that_never_end_are_timed_out {_HTTP}test_a_body_that_never_ends_is_timed_out",
    ),
    Promise(
        "10,000 idle connections",
        "closed by the header time-out; at most 4,096 and a quarter of the descriptors at a time",
        f"{_HTTP}test_a_hundred_idle_connections_do_not_keep_others_out {_FAULTS}test_out_of_descriptors_it_waits_and_goes_on",
    ),
    Promise("both Content-Length and Transfer-Encoding", "400, closed", f"{_HTTP}test_broken_http_is_400_and_closed"),
    Promise(
        "HTTP/1.1 on the gRPC port, gRPC on the HTTP port, TLS on a plain port",
        "turned away, the door stays open to others; no log line: strangers would write it",
        f"{_FAULTS}test_other_protocols_at_a_door_are_turned_away {_GRPC}test_http1_on_the_grpc_port_is_turned_away",
    ),
    Promise("GET /v1/traces", "405 with Allow", f"{_HTTP}test_other_methods_are_405"),
    Promise("/v1/traces/", "404: paths are exact", f"{_HTTP}test_other_paths_are_404"),
    Promise(
        "missing or odd Content-Type", "415 with a Status body", f"{_HTTP}test_other_types_are_415_with_a_json_status"
    ),
    Promise(
        "no, wrong or expired credential",
        "401 / UNAUTHENTICATED before the body is read",
        f"{_SAFE}test_no_wrong_or_expired_key_is_401_and_unauthenticated {_SAFE}test_who_has_no_key_is_told_before_the_body_is_read {_SAFE}test_a_client_without_a_certificate_does_not_get_in",
    ),
    Promise(
        "request above the limit",
        "413 / RESOURCE_EXHAUSTED without RetryInfo",
        f"{_HTTP}test_a_large_body_is_413_with_and_without_a_length {_GRPC}test_too_large_is_not_retryable_before_and_after_decompression",
    ),
    Promise("client cancels in the middle", "whole or nothing", f"{_GRPC}test_a_cancelled_call_is_whole_or_nothing"),
    Promise(
        "client dies after our commit, before the ack",
        "its resend counts once",
        f"{_HTTP}test_a_client_that_leaves_before_the_answer_loses_nothing flow/test_killed.py::test_killed_again_and_again_under_load",
    ),
    Promise(
        "disk full (ENOSPC)",
        "503 / UNAVAILABLE with a hint, not ready, no exit, recovers by itself",
        f"{_FAULTS}test_a_disk_that_is_really_full_refuses_and_recovers_by_itself {_JOURNAL}test_a_full_disk_refuses_and_recovers_by_itself",
    ),
    Promise(
        "fsync error (EIO)",
        "nothing more is taken; the same file is not synced again",
        f"{_JOURNAL}test_an_io_error_stops_the_journal_for_good {_GRPC}test_a_broken_disk_is_unavailable_for_good",
    ),
    Promise(
        "torn last record after power loss",
        "cut off at its checksum, counted",
        f"{_JOURNAL}test_a_torn_tail_is_cut_off_and_counted {_SPILL}test_kill_at_any_write_of_the_spill_keeps_what_was_kept",
    ),
    Promise(
        "corrupt record in the middle",
        "set aside in quarantine, counted; the start succeeds",
        f"{_JOURNAL}test_a_damaged_record_is_set_aside_and_the_rest_is_read {_JOURNAL}test_any_damage_costs_only_the_records_it_touches {_SPILL}test_a_damaged_request_on_disk_is_counted_and_the_others_go_on",
    ),
    Promise(
        "kill -9 at any point",
        "all that was acknowledged is there, money exact, alerts once",
        "flow/test_killed.py::test_killed_again_and_again_under_load flow/test_service.py::test_killed_under_load_nothing_acknowledged_is_lost edge/test_journal.py::test_kill_9_loses_nothing_that_was_acknowledged edge/notify/test_outbox.py::test_what_put_returned_from_survives_kill_9",
    ),
    Promise(
        "two processes on one data directory",
        "the second is told who holds it",
        f"{_JOURNAL}test_a_second_process_is_told_who_holds_the_folder",
    ),
    Promise(
        "clock jumps an hour",
        "timers do not notice; the step is made up for slowly",
        "edge/test_clock.py::test_an_hour_forward_and_an_hour_back_do_not_move_it edge/test_clock.py::test_it_never_goes_back",
    ),
    Promise(
        "out of file descriptors",
        "accepting pauses, nothing dies",
        f"{_FAULTS}test_out_of_descriptors_it_waits_and_goes_on",
    ),
    Promise(
        "memory above the soft limit",
        "new requests wait, what was accepted goes on",
        f"{_FAULTS}test_above_the_soft_limit_of_memory_requests_wait_and_nothing_dies edge/receive/test_pressure.py::test_memory_has_three_levels",
    ),
    Promise(
        "backend down for a day",
        "its records wait on disk up to `sending_queue.spill.max_bytes`, then the stated policy",
        f"flow/test_backend_down.py::test_a_backend_that_is_down_hurts_nobody_else {_SPILL}test_a_full_spill_drops_by_its_policy_and_counts {_SPILL}test_a_full_spill_that_refuses_loses_nothing {_SPILL}test_what_is_under_way_when_the_oldest_is_dropped_outlasts_a_crash",
    ),
    Promise(
        "backend answers 400, 401, 404 for ever",
        "dead letters, an alert, the others go on",
        f"{_DEST}test_permanent_status_is_set_aside_not_resent {_FAULTS}test_a_destination_in_trouble_is_an_alert_and_so_is_its_end {_FAULTS}test_a_backend_that_refuses_for_ever_is_told_of_and_the_other_goes_on",
    ),
    Promise(
        "backend: 200 with partial success",
        "counted, not resent",
        f"{_DEST}test_partial_success_is_counted_and_not_resent",
    ),
    Promise(
        "backend: 200 with garbage, HTML, 4 GB",
        "read up to 4 MiB and a deadline; a web page has taken nothing",
        f"{_DEST}test_web_page_has_taken_nothing {_DEST}test_odd_success_is_success",
    ),
    Promise(
        "backend: Retry-After of a year, or in the past",
        "clamped to five minutes",
        f"{_DEST}test_absurd_retry_after_is_clamped {_DEST}test_retry_after_forms",
    ),
    Promise(
        "backend hangs",
        "time-out, resent with the same ids, more patiently each time",
        f"{_DEST}test_backend_that_hangs_is_asked_again {_SPILL}test_a_backend_slower_than_the_timeout_gets_each_record_a_bounded_number_of_times",
    ),
    Promise(
        "redirect to 169.254.169.254",
        "no redirect is followed, no such address is asked",
        f"{_DEST}test_permanent_status_is_set_aside_not_resent edge/test_outbound.py::test_addresses_in_any_spelling_are_refused_by_sinks_and_exporters",
    ),
    Promise(
        "config: typo, missing variable, bad YAML",
        "the start fails with file, line and column",
        "edge/test_config.py::test_refused edge/test_config.py::test_every_mistake_is_named_at_its_own_file test_fuzz.py::test_config",
    ),
    Promise(
        "reload with a bad config",
        "the old one stays",
        "edge/serve/test_api.py::test_reload_says_what_is_wrong_and_refuses_other_sites",
    ),
    Promise(
        "SIGTERM in full load",
        "drained, or on disk within the grace time",
        f"flow/test_service.py::test_terminated_under_load_everything_accepted_arrives_once {_SPILL}test_what_is_left_at_the_end_is_sent_by_the_next_run_and_only_once",
    ),
    Promise(
        "price table changes in the middle of a trace",
        "every charge names its price book",
        "core/enrich/test_enrich.py::test_priced_call_says_its_cost_and_its_parts",
    ),
    Promise(
        "budget counters are lost",
        "they are memory, counted again from the ledger at every start",
        "flow/test_policy.py::test_a_restart_counts_again_says_nothing_twice_and_goes_on_where_it_was",
    ),
    Promise(
        "partition moved while a trace is open",
        "alert ids are fingerprint and episode, so a second owner says nothing new",
        "edge/notify/test_outbox.py::test_a_key_is_taken_once_per_channel",
    ),
    Promise(
        "IPv6, unix socket, PROXY header",
        "IPv6 is served; `unix:` works for gRPC exporters, not for receivers; a PROXY header is broken HTTP (400): put the proxy's own HTTP or gRPC mode before us",
        f"{_HTTP}test_ipv6 {_HTTP}test_broken_http_is_400_and_closed",
    ),
)

SECURITY = (
    Promise(
        "Who sends is asked before the body is read",
        "keys (`Authorization: Bearer`, `x-api-key`, Basic), client certificates",
        f"{_SAFE}test_who_has_no_key_is_told_before_the_body_is_read {_SAFE}test_a_client_without_a_certificate_does_not_get_in {_SAFE}test_no_header_can_claim_a_certificate",
    ),
    Promise(
        "Keys are kept as hashes, compared in constant time, several live at once, with an end",
        "SHA-256 of 256 random bits; `hmac.compare_digest` over all of them",
        f"{_SAFE}test_the_tenant_comes_from_the_key_and_from_nothing_else {_SAFE}test_no_wrong_or_expired_key_is_401_and_unauthenticated",
    ),
    Promise(
        "Scopes: ingest, read, admin",
        "per key and certificate, on receivers and API alike",
        f"{_SAFE}test_a_key_without_the_scope_is_403 {_GATE}test_nothing_but_health_is_open {_GATE}test_writes_need_their_scope_and_our_own_pages",
    ),
    Promise(
        "Quotas",
        "per tenant: `tenants.NAME.max_bytes_per_second`, and a fair share of what is in flight",
        "edge/receive/test_pressure.py::test_a_quota_lets_bursts_through_and_then_says_when edge/receive/test_pressure.py::test_a_flood_of_one_tenant_leaves_room_for_the_others",
    ),
    Promise(
        "Admin and metrics on another port, loopback by default",
        "8317; every endpoint is loopback unless configured",
        "edge/test_config.py::test_without_config_it_listens_on_loopback_and_exports_nothing",
    ),
    Promise(
        "An endpoint beyond this machine without authentication",
        "refused at the start unless `auth.allow_anonymous` says that it is meant",
        "edge/test_config.py::test_an_endpoint_beyond_this_machine_wants_keys_or_says_that_it_does_not",
    ),
    Promise(
        "TLS, mTLS, renewal without a restart",
        "`tls` of each endpoint; a broken new certificate leaves the old one",
        f"{_SAFE}test_tls_on_both_doors_and_plain_text_is_turned_away {_SAFE}test_a_new_certificate_is_used_without_a_restart_and_a_broken_one_is_not",
    ),
    Promise(
        "The tenant comes from the credential alone",
        "unless a key is a gateway's and names a header",
        f"{_SAFE}test_the_tenant_comes_from_the_key_and_from_nothing_else {_GATE}test_a_tenants_key_sees_that_tenant_whatever_it_asks {_GATE}test_a_hook_call_is_of_the_tenant_of_its_key",
    ),
    Promise(
        "The tenant is in every key",
        "runs, calls, budgets, alerts; equal ids of two tenants never meet",
        "core/test_tenants.py::test_equal_ids_of_two_tenants_never_meet core/budget/test_budgets.py::test_groups_are_apart_by_tenant_and_the_unattributed_are_one flow/test_policy.py::test_tenants_have_budgets_of_their_own",
    ),
    Promise(
        "Decompression: streamed, capped, one encoding",
        "gzip, deflate, zstd with a window of 8 MiB",
        f"{_HTTP}test_a_bomb_is_413_at_the_limit {_SAFE}test_a_zstd_bomb_is_413_and_memory_stays_flat test_fuzz.py::test_decompression fuzz/test_targets.py::test_nothing_but_its_own_errors_comes_out",
    ),
    Promise(
        "Depth and size caps",
        "protobuf and JSON, record by record",
        f"core/decode/test_limits.py::test_too_much_is_rejected_alone {_JSON}test_deep_values_reject_their_record_and_absurd_ones_the_request",
    ),
    Promise("JSON: duplicate keys", "the last wins", f"{_JSON}test_null_is_absent_and_the_last_of_equal_keys_wins"),
    Promise("YAML: safe loader", "positions are kept, tags build nothing", "test_fuzz.py::test_yaml_of_any_text"),
    Promise(
        "HTTP: CL with TE, obs-fold, bare LF, oversize headers",
        "400 and closed; 64 KiB of headers, in ten seconds",
        f"{_HTTP}test_broken_http_is_400_and_closed {_HTTP}test_endless_headers_are_cut_off {_HTTP}test_headers_that_never_end_are_timed_out",
    ),
    Promise(
        "X-Forwarded-* and client headers",
        "not read, not forwarded",
        f"{_SAFE}test_the_tenant_comes_from_the_key_and_from_nothing_else",
    ),
    Promise(
        "SSRF",
        "destinations are the operator's alone; metadata and link-local addresses are refused whatever name leads there, resolved once, no redirects; `HTTPS_PROXY` is honoured. Private addresses are allowed: they are where an operator's backends live",
        "edge/test_outbound.py::test_never edge/test_outbound.py::test_one_bad_address_of_a_name_is_enough_and_the_name_is_asked_once",
    ),
    Promise(
        "Secrets print as `**********`",
        "config, logs, errors, `config show`; `${file:}` for mounted ones",
        f"{_SAFE}test_secrets_are_printed_nowhere edge/test_config.py::test_what_is_shown_holds_no_secret edge/test_config.py::test_certificates_are_relative_to_the_file_and_keys_are_not_shown",
    ),
    Promise(
        "Recorded credentials (`authorization`, cookies, keys in recorded headers)",
        "taken out of spans and logs on arrival",
        "core/test_redact.py::test_recorded_credentials_always_go",
    ),
    Promise(
        "Content: dropped or hashed before anything durable",
        "`content`; keyed per tenant, so that loops are still seen. Hook calls too",
        "core/test_redact.py::test_drop_and_hash_leave_no_content_anywhere core/test_redact.py::test_equal_content_stays_equal_within_a_tenant_and_nowhere_else core/test_redact.py::test_a_record_that_cannot_be_read_does_not_come_to_rest_and_does_not_save_its_neighbours core/test_redact.py::test_hook_calls_hold_no_content_either",
    ),
    Promise(
        "No content in alerts, logs and ledger",
        "detectors keep hashes and shapes",
        "edge/serve/test_hooks.py::test_a_bad_payload_is_an_empty_object_and_a_log_line_without_content",
    ),
    Promise(
        "Our own mistake quotes nothing",
        "500 without its cause; the log has type and place",
        f"{_GRPC}test_our_own_mistake_is_internal_and_quotes_nothing {_HTTP}test_our_own_mistake_is_500_and_quotes_nothing",
    ),
    Promise(
        "Files are for their owner",
        "0600 and 0700",
        f"{_JOURNAL}test_files_are_for_their_owner_only {_GATE}test_commands_on_the_same_data_directory_get_in",
    ),
    Promise("Encryption at rest", "not done: use an encrypted file system"),
    Promise(
        "Retention and deletion",
        "`retention`, `otel-cost forget`: by age, run, user or tenant",
        "edge/ledger/test_forget.py::test_forgets_by_run_user_and_age",
    ),
    Promise(
        "Injection into pages, terminals, SQL",
        "escaped, bound",
        "edge/serve/test_api.py::test_pages_escape_what_senders_wrote_and_need_nothing_from_elsewhere edge/notify/test_sinks.py::test_console_sink_keeps_control_characters_from_the_terminal",
    ),
    Promise(
        "Pages: CSP, nothing inline, changes from our own pages only",
        "`default-src 'none'`; Origin and Sec-Fetch-Site are checked on every write",
        f"{_GATE}test_nothing_but_health_is_open {_GATE}test_writes_need_their_scope_and_our_own_pages",
    ),
    Promise(
        "DNS rebinding",
        "without keys a loopback API answers to names of its own machine only",
        f"{_GATE}test_without_keys_no_other_name_points_here",
    ),
    Promise(
        "Patterns of rules",
        "see at most 1,024 characters of a value, because senders choose the values",
        "core/rules/test_match.py::test_any_value_that_is_sent_gets_an_answer",
    ),
    Promise("Prices", "shipped with the package, pinned; nothing is fetched"),
    Promise("Supply chain", "exact versions in `constraints.txt`; no pickle. No SBOM, no signed releases yet"),
    Promise(
        "Forged spans",
        "budgets can be exhausted by whoever may send: authenticate senders, set quotas. Decisions are advice unless a harness or gateway acts on them",
    ),
)


def page(title: str, intro: str, first: str, promises: tuple[Promise, ...], *, numbered: bool) -> str:
    """One Markdown table."""
    lines = [f"# {title}", "", intro, "", f"| {'# | ' if numbered else ''}{first} | answer | test |"]
    lines.append(f"|{'---|' if numbered else ''}---|---|---|")
    for number, promise in enumerate(promises, 1):
        tests = "<br>".join(f"`{test}`" for test in promise.tests.split()) or "—"
        lines.append(f"| {f'{number} | ' if numbered else ''}{promise.what} | {promise.answer} | {tests} |")
    return "\n".join(lines) + "\n"


PAGES = {
    "faults.md": page(
        "Faults and what happens",
        "What goes wrong between a sender and a backend, the answer, and the test below `tests/` that shows it.\n"
        "Written by `python tests/promises.py`.",
        "fault",
        FAULTS,
        numbered=True,
    ),
    "security.md": page(
        "Security",
        "What is done, or why not, and the test below `tests/` that shows it. Written by `python tests/promises.py`.",
        "what",
        SECURITY,
        numbered=False,
    ),
}

if __name__ == "__main__":
    for name, text in PAGES.items():
        (ROOT / "docs" / name).write_text(text)
