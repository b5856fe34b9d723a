//! Many machines out of one snapshot.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::machine::{Snapshot, Stage, Vmm};
use super::{Figure, Samples, cgroup, cpu_ns, resumed};

/// How many at a time.
pub(in crate::bench) const COUNTS: [u32; 4] = [1, 8, 32, 100];

/// Makes clones of a guest, has all of them answer, takes their memory, and ends them.
///
/// # Errors
///
/// Fails when one doesn't answer, or leaves something behind.
pub(super) fn measure(
    stage: &Stage,
    snapshot: &Snapshot,
    guest_mib: u64,
    samples: &mut Samples,
) -> Result<()> {
    for count in COUNTS {
        let cgroup = cgroup()?;
        let started = Instant::now();
        let mut clones = Vec::new();
        for index in 0..count {
            let mut clone = Vmm::start(stage, &cgroup, &format!("clone-{index}"))?;
            clone.load(snapshot, &resumed(&Value::Null))?;
            clones.push(clone);
        }
        // Only now: all of them run when the first one is asked.
        for (index, clone) in clones.iter().enumerate() {
            let asked = Instant::now();
            clone.ask("anything").with_context(|| {
                let waited = asked.elapsed();
                format!("clone {index} of {count} doesn't answer, and it was {waited:?}")
            })?;
        }
        let elapsed = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let cpu = cpu_ns(&cgroup)?;
        let (mut pss, mut unshared) = (0, 0);
        for clone in &clones {
            let memory = metering::sums(clone.process())?;
            pss += memory.pss_kib;
            unshared += memory.unshared_kib;
        }
        let each = u64::from(count);
        samples.add(Figure::CloneCpu, guest_mib, count, cpu / each);
        samples.add(Figure::CloneElapsed, guest_mib, count, elapsed);
        samples.add(Figure::ClonePss, guest_mib, count, pss / each);
        samples.add(Figure::CloneUnshared, guest_mib, count, unshared / each);
        clones.into_iter().try_for_each(Vmm::end)?;
        ensure!(cgroup.processes()?.is_empty(), "processes of clones are left");
    }
    Ok(())
}
