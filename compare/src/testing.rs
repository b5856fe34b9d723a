//! Reports for tests.

use crate::model::{Outcome, Report};

/// A report of an nginx image in four ways, with a bit of everything. Its figures are invented.
pub(crate) fn nginx() -> Report {
    Report::from_json(include_str!("../tests/data/nginx.json")).unwrap()
}

/// The same with a text of an attacker's wherever there's a text.
pub(crate) fn hostile(payload: &str) -> Report {
    let mut report = nginx();
    let owned = || payload.to_owned();
    report.started_at = owned();
    report.finished_at = owned();
    report.command_line = vec![owned(), owned()];
    report.notes = vec![owned()];
    report.image.reference = owned();
    report.image.id = owned();
    report.settings.command = vec![owned()];
    report.settings.path = owned();
    let host = &mut report.host;
    host.kernel = owned();
    host.architecture = owned();
    host.cpu_model = owned();
    host.cpu_governor = Some(owned());
    host.kvm_module = Some(owned());
    host.vmctl_version = owned();
    for way in &mut report.ways {
        way.detail = owned();
        way.failure = Some(owned());
    }
    for row in &mut report.rows {
        row.id = owned();
        row.title = owned();
        row.note = Some(owned());
        for cell in &mut row.cells {
            match &mut cell.outcome {
                Outcome::Measured(_) => {}
                Outcome::Said { text: said }
                | Outcome::Failed { reason: said }
                | Outcome::NotApplicable { reason: said } => *said = owned(),
            }
        }
    }
    let steps = report.timelines.iter_mut().flat_map(|timeline| &mut timeline.steps);
    steps.for_each(|step| step.name = owned());
    report.curves.iter_mut().for_each(|curve| curve.stopped_by = owned());
    for aspect in &mut report.isolation {
        aspect.id = owned();
        aspect.title = owned();
        aspect.method = owned();
        aspect.host = Some(owned());
        for observation in &mut aspect.observations {
            observation.value = owned();
            observation.neighbours = Some(owned());
        }
    }
    report
}
