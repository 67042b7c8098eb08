//! A process under measurement: the processor core it runs on, the CPU time it took, the memory it
//! held.

use std::fs;
use std::sync::LazyLock;

use anyhow::{Context as _, Result};
use local::runtime_api::{FunctionProcess, Launch};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// The cores that this program may use when it starts.
static CORES: LazyLock<Vec<usize>> = LazyLock::new(|| {
    let allowed = sched_getaffinity(Pid::from_raw(0)).unwrap_or_default();
    (0..CpuSet::count())
        .filter(|&core| allowed.is_set(core).unwrap_or(false))
        .collect()
});

/// Number of cores that this program may use when it starts.
pub(crate) fn cores() -> usize {
    CORES.len()
}

/// Starts a function on a core of its own, and keeps this thread off that core.
///
/// A process inherits the core of the thread that starts it. On a machine with one core they share
/// it.
pub(crate) async fn start(launch: Launch) -> Result<FunctionProcess> {
    pin(CORES.last())?;
    let function = FunctionProcess::start(launch).await;
    leave()?;
    function
}

/// Keeps this thread, and what it starts from now on, off the core of the functions.
pub(crate) fn leave() -> Result<()> {
    pin(CORES.first())
}

/// Moves this thread to the core of the functions.
pub(crate) fn join() -> Result<()> {
    pin(CORES.last())
}

fn pin(core: Option<&usize>) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(*core.context("this program may use no core")?)?;
    sched_setaffinity(Pid::from_raw(0), &set).context("cannot choose a core")
}

/// The CPU time that the threads of a process have taken until now, in microseconds (`schedstat`:
/// nanoseconds on the CPU).
pub(crate) fn cpu_micros(pid: u32) -> Result<f64> {
    let mut nanos = 0.0;
    for thread in fs::read_dir(format!("/proc/{pid}/task")).context("the process is gone")? {
        let stat = fs::read_to_string(thread?.path().join("schedstat"))?;
        let on_cpu = stat.split_whitespace().next();
        nanos += on_cpu.context("an empty schedstat")?.parse::<f64>()?;
    }
    Ok(nanos / 1000.0)
}

/// The most memory that the process ever held, pages of its binary included, in MB.
pub(crate) fn peak_megabytes(pid: u32) -> Result<f64> {
    let status =
        fs::read_to_string(format!("/proc/{pid}/status")).context("the process is gone")?;
    let mut lines = status.lines();
    let line = lines.find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next());
    Ok(kib.context("no VmHWM in its status")?.parse::<f64>()? * 1024.0 / 1e6)
}
