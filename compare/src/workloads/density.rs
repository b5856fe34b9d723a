//! How many instances fit: one more and one more, up to a bound.

use std::fs;
use std::sync::Arc;

use super::{Running, Session};
use crate::model::{Curve, Point, WayId, Workload};
use crate::statistics::slope;
use crate::ways::{Runner, Spec, WayError};

/// Bytes of a GiB.
const GIB: f64 = (1 << 30) as f64;

/// How much of the host's memory must stay available: a part of all of it.
const KEPT_FREE: f64 = 0.1;

impl Session<'_> {
    pub(super) fn density(&mut self) {
        for runner in self.runners {
            if self.is_interrupted() {
                return;
            }
            let curve = self.grow(runner);
            let way = runner.id();
            if let Some(bytes) = curve.bytes_per_instance {
                self.table.add("memory.host", way, bytes);
            }
            if let Some(instances) = curve.instances_per_gib {
                self.table.add("density.per-gib", way, instances);
            }
            if curve.points.is_empty() {
                let error = WayError::Unavailable(curve.stopped_by.clone());
                self.table.fail(Workload::Density, way, &error);
            } else {
                self.findings.curves.push(curve);
            }
        }
    }

    fn grow(&mut self, runner: &Arc<dyn Runner>) -> Curve {
        let mut curve = Curve {
            way: runner.id(),
            points: Vec::new(),
            bytes_per_instance: None,
            instances_per_gib: None,
            stopped_by: String::new(),
        };
        let Some(Memory { available, total }) = Memory::now() else {
            "the host doesn't tell how much memory is available".clone_into(&mut curve.stopped_by);
            return curve;
        };
        let mut all: Vec<Running> = Vec::new();
        curve.stopped_by = loop {
            let count = u32::try_from(all.len()).unwrap_or(u32::MAX);
            if count >= self.plan.most_instances {
                break format!("the bound of {count} instances");
            }
            if self.is_interrupted() {
                break "an interrupt".to_owned();
            }
            let left = Memory::now().map_or(0, |memory| memory.available);
            if (left as f64) < total as f64 * KEPT_FREE {
                break format!("the host's memory: {} MiB are left", left >> 20);
            }
            let what = runner.id().title();
            self.observer.progress(&format!("density: {what}, instance {}", count + 1));
            match self.one_more(&**runner) {
                Ok(running) => all.push(running),
                Err(error) => break super::describe(&error),
            }
            if let Some(point) = point(&all, available) {
                curve.points.push(point);
            }
        };
        self.observer.progress(&format!("density: {}, removing", runner.id().title()));
        for mut running in all {
            if let Err(error) = running.instance.stop() {
                log::warn!("an instance can't be stopped: {error}");
            }
        }
        let places: Vec<_> = curve
            .points
            .iter()
            // The host's memory comes and goes; what processes have is the least that they take.
            .map(|point| (f64::from(point.instances), point.host_bytes.max(point.pss_bytes) as f64))
            .collect();
        // One that's less than nothing is the host's own coming and going.
        curve.bytes_per_instance = slope(&places).filter(|bytes| *bytes > 0.0);
        curve.instances_per_gib = curve.bytes_per_instance.map(|bytes| GIB / bytes);
        curve
    }

    fn one_more(&mut self, runner: &dyn Runner) -> Result<Running, WayError> {
        if runner.id() != WayId::FullVm {
            return self.idle(runner, false);
        }
        let spec = Spec { name: self.name(), ..Spec::default() };
        let mut instance = runner.start(&spec)?;
        self.until_login(&mut *instance)?;
        Ok(Running { instance })
    }
}

/// So many instances as there are now.
fn point(all: &[Running], available_before: u64) -> Option<Point> {
    let usages: Vec<_> = all.iter().filter_map(|running| running.instance.usage().ok()).collect();
    let now = Memory::now()?.available;
    Some(Point {
        instances: u32::try_from(all.len()).ok()?,
        pss_bytes: usages.iter().map(|usage| usage.pss_bytes).sum(),
        host_bytes: available_before.saturating_sub(now),
        start_cpu_us: usages.last().map(|usage| usage.cpu_us as f64),
    })
}

/// The host's memory, in bytes.
struct Memory {
    available: u64,
    total: u64,
}

impl Memory {
    fn now() -> Option<Self> {
        Self::parse(&fs::read_to_string("/proc/meminfo").ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        let value = |name: &str| -> Option<u64> {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
        };
        Some(Self { available: value("MemAvailable:")?, total: value("MemTotal:")? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_from_the_kernels_table() {
        let memory = Memory::parse("MemTotal:  100 kB\nMemFree: 7 kB\nMemAvailable:   50 kB\n");
        let memory = memory.unwrap();
        assert_eq!((memory.total, memory.available), (100 << 10, 50 << 10));
        assert!(Memory::parse("MemTotal: 5 kB\n").is_none());
    }
}
