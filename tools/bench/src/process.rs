//! A process under measurement: the processor core it runs on, the CPU time it took, the memory it
//! held.

use std::fs;
use std::sync::LazyLock;

use anyhow::{Context as _, Result};
use local::runtime_api::{Function, Launch};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// The group for processes whose CPU is limited, where the kernel lets us make one (cgroup v1 and
/// v2).
const GROUPS: [(&str, &str); 2] = [
    ("/sys/fs/cgroup/cpu/genesys-relay-bench", "cpu.cfs_quota_us"),
    ("/sys/fs/cgroup/genesys-relay-bench", "cpu.max"),
];

/// Lambda hands out CPU by slices of this length ("Configure Lambda function memory": a vCPU at
/// 1,769 MB, and less in proportion; the length of the slices is observed, not documented).
const PERIOD_MICROS: u64 = 20_000;

/// Starts a function on a core of its own, and keeps this program off that core.
///
/// A process inherits the cores of the thread that starts it, and everything here runs on one
/// thread. On a machine with one core they share it.
pub(crate) async fn start(launch: Launch) -> Result<Function> {
    let (Some(ours), Some(theirs)) = (CORES.first(), CORES.last()) else {
        return Function::start(launch).await;
    };
    pin(&[*theirs])?;
    let function = Function::start(launch).await;
    pin(&[*ours])?;
    function
}

/// Gives this program, and what it starts from now on, all cores back.
pub(crate) fn unpin() -> Result<()> {
    pin(&CORES)
}

/// The cores that this program may use when it starts.
static CORES: LazyLock<Vec<usize>> = LazyLock::new(|| {
    let allowed = sched_getaffinity(Pid::from_raw(0)).unwrap_or_default();
    (0..CpuSet::count())
        .filter(|&core| allowed.is_set(core).unwrap_or(false))
        .collect()
});

fn pin(cores: &[usize]) -> Result<()> {
    let mut set = CpuSet::new();
    cores
        .iter()
        .try_for_each(|&core| set.set(core))
        .context("no such core")?;
    sched_setaffinity(Pid::from_raw(0), &set).context("cannot choose a core")
}

/// The CPU time that the threads of a process have taken until now, in microseconds (`schedstat`:
/// nanoseconds on the CPU).
pub(crate) fn cpu_micros(pid: u32) -> Result<f64> {
    let mut nanos = 0.0;
    for thread in fs::read_dir(format!("/proc/{pid}/task")).context("the process is gone")? {
        let stat = fs::read_to_string(thread?.path().join("schedstat"))?;
        let on_cpu = stat
            .split_whitespace()
            .next()
            .context("an empty schedstat")?;
        nanos += on_cpu.parse::<f64>()?;
    }
    Ok(nanos / 1000.0)
}

/// The most memory that the process ever held, pages of its binary included, in MB.
pub(crate) fn peak_megabytes(pid: u32) -> Result<f64> {
    let status =
        fs::read_to_string(format!("/proc/{pid}/status")).context("the process is gone")?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .context("no VmHWM in its status")?;
    let kib: f64 = line
        .split_whitespace()
        .next()
        .context("no number in VmHWM")?
        .parse()?;
    Ok(kib * 1024.0 / 1e6)
}

/// A limit of CPU time, as a function with little memory has it. Dropping it takes it away again.
#[derive(Debug)]
pub(crate) struct Quota(&'static str);

impl Quota {
    /// The CPU that Lambda gives a function with this much memory. `None` where this machine does
    /// not let us limit any.
    pub(crate) fn of_memory(megabytes: u32) -> Option<Self> {
        let micros = u64::from(megabytes) * PERIOD_MICROS / 1769;
        GROUPS.into_iter().find_map(|(group, file)| {
            fs::create_dir_all(group).ok()?;
            let quota = Self(group);
            let written = if file == "cpu.max" {
                fs::write(
                    format!("{group}/cpu.max"),
                    format!("{micros} {PERIOD_MICROS}"),
                )
            } else {
                fs::write(
                    format!("{group}/cpu.cfs_period_us"),
                    PERIOD_MICROS.to_string(),
                )
                .and_then(|()| fs::write(format!("{group}/{file}"), micros.to_string()))
            };
            written.ok().map(|()| quota)
        })
    }

    /// From now on this process is limited.
    pub(crate) fn limit(&self, pid: u32) -> Result<()> {
        fs::write(format!("{}/cgroup.procs", self.0), pid.to_string())
            .context("cannot limit the CPU of the process")
    }
}

impl Drop for Quota {
    fn drop(&mut self) {
        // Fails while a process is in it; the next run uses it again.
        drop(fs::remove_dir(self.0));
    }
}
