//! What stands for the attacks at system calls where there is no tracer for the processor.

#[test]
fn errors_full_disk_kills_and_power_cuts_need_x86_64() {
    eprintln!(
        "SKIPPED: errors, full_disk, kills and power_cuts strike at system calls that our tracer knows on x86-64 alone"
    );
}
