//! How a container fares, in Docker's words.

use std::time::SystemTime;

use runtime::{HealthStatus, State, Status};

use crate::format::human;

/// `Up 2 minutes (healthy)`, `Exited (0) 3 hours ago`, ….
pub(super) fn in_words(state: &State, now: SystemTime) -> String {
    let since = |then: Option<SystemTime>| {
        let then = then.unwrap_or(now);
        human::duration(now.duration_since(then).unwrap_or_default())
    };
    match state.status {
        Status::Created => "Created".to_owned(),
        Status::Running => format!("Up {}{}", since(state.started), health(state)),
        Status::Paused => format!("Up {} (Paused)", since(state.started)),
        Status::Restarting => {
            format!("Restarting ({}) {} ago", state.exit_code, since(state.finished))
        }
        Status::Removing => "Removal In Progress".to_owned(),
        Status::Exited => format!("Exited ({}) {} ago", state.exit_code, since(state.finished)),
        Status::Dead => "Dead".to_owned(),
    }
}

fn health(state: &State) -> &'static str {
    match state.health.as_ref().map(|health| health.status) {
        None => "",
        Some(HealthStatus::Starting) => " (health: starting)",
        Some(HealthStatus::Healthy) => " (healthy)",
        Some(HealthStatus::Unhealthy) => " (unhealthy)",
    }
}
