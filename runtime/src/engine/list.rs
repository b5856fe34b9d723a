//! Finds containers and lists them: the truth, even after a crash.

use std::collections::BTreeMap;
use std::time::SystemTime;

use image::Reference;

use super::filters::{has_labels, matches_name, parse_ports};
use super::{Engine, network_error};
use crate::error::RuntimeError;
use crate::options::{ListOptions, Listed};
use crate::record::{ContainerRecord, HealthStatus, State, Status};

/// What containers can be chosen by.
const FILTERS: [&str; 13] = [
    "ancestor", "before", "expose", "exited", "health", "id", "label", "name", "network",
    "publish", "since", "status", "volume",
];

impl Engine {
    /// Lists containers, the newest first.
    ///
    /// # Errors
    /// A filter is unknown or malformed, or the directory can't be read.
    pub fn list(&self, options: &ListOptions) -> Result<Vec<Listed>, RuntimeError> {
        let wanted = Wanted::of(self, &options.filters)?;
        let shows_all = options.all
            || options.last.is_some()
            || ["status", "exited"].iter().any(|name| options.filters.contains_key(*name));
        let mut listed = Vec::new();
        for state in self.store.states()? {
            let Some(state) = self.mend(state)? else { continue };
            if (shows_all || state.status.is_active()) && wanted.fits(self, &state)? {
                listed.push(Listed { state });
            }
        }
        listed.sort_by(|one, other| {
            let key = |it: &Listed| (it.state.summary.created, it.state.summary.id.clone());
            key(other).cmp(&key(one))
        });
        if let Some(last) = options.last {
            listed.truncate(last);
        }
        Ok(listed)
    }

    /// Finds a container.
    ///
    /// # Errors
    /// There's none, or several.
    pub fn find(&self, reference: &str) -> Result<(ContainerRecord, State), RuntimeError> {
        let id = self.store.resolve(reference)?;
        let state = self.mend(self.store.state(&id)?)?;
        let state = state.ok_or_else(|| crate::store::no_container(reference))?;
        Ok((self.store.record(&id)?, state))
    }
}

/// Filters, as far as they can be worked out beforehand.
struct Wanted<'a> {
    filters: &'a BTreeMap<String, Vec<String>>,
    before: Option<SystemTime>,
    since: Option<SystemTime>,
    /// Names of networks.
    networks: Vec<String>,
}

impl<'a> Wanted<'a> {
    fn of(
        engine: &Engine,
        filters: &'a BTreeMap<String, Vec<String>>,
    ) -> Result<Self, RuntimeError> {
        if let Some(name) = filters.keys().find(|name| !FILTERS.contains(&name.as_str())) {
            return Err(RuntimeError::invalid(format!("invalid filter {name:?}")));
        }
        let created = |filter: &str| {
            let last = filters.get(filter).and_then(|values| values.last());
            let found = last.map(|reference| engine.find(reference)).transpose()?;
            Ok::<_, RuntimeError>(found.map(|(record, _)| record.created))
        };
        check_words(filters)?;
        let mut networks = Vec::new();
        for reference in filters.get("network").into_iter().flatten() {
            networks.push(match engine.networks()?.get(reference).map_err(network_error) {
                Ok(network) => network.name,
                // A container may name one that's gone.
                Err(RuntimeError::NotFound { .. }) => reference.clone(),
                Err(error) => return Err(error),
            });
        }
        Ok(Self { filters, before: created("before")?, since: created("since")?, networks })
    }

    fn fits(&self, engine: &Engine, state: &State) -> Result<bool, RuntimeError> {
        let created = state.summary.created;
        if self.before.is_some_and(|before| created >= before)
            || self.since.is_some_and(|since| created <= since)
        {
            return Ok(false);
        }
        for (filter, values) in self.filters {
            let fits = match filter.as_str() {
                "label" => has_labels(&state.summary.labels, values),
                "volume" => {
                    let record = engine.store.record(&state.summary.id)?;
                    values.iter().any(|value| has_volume(&record, value))
                }
                "network" => state.summary.networks.iter().any(|it| self.networks.contains(it)),
                _ => values.iter().any(|value| fits(state, filter, value)),
            };
            if !fits {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn check_words(filters: &BTreeMap<String, Vec<String>>) -> Result<(), RuntimeError> {
    for (name, values) in filters {
        let good = |value: &String| match name.as_str() {
            "exited" => value.parse::<i32>().is_ok(),
            "status" => status(value).is_some(),
            "health" => HEALTH.contains(&value.as_str()),
            "publish" | "expose" => parse_ports(value).is_some(),
            _ => true,
        };
        if let Some(value) = values.iter().find(|value| !good(value)) {
            return Err(RuntimeError::invalid(format!("invalid filter {name}={value}")));
        }
    }
    Ok(())
}

const HEALTH: [&str; 4] = ["starting", "healthy", "unhealthy", "none"];

fn status(text: &str) -> Option<Status> {
    use Status::{Created, Dead, Exited, Paused, Removing, Restarting, Running};
    let all = [Created, Running, Paused, Restarting, Removing, Exited, Dead];
    all.into_iter().find(|status| status.as_str() == text)
}

/// Whether a state has what a filter looks for.
fn fits(state: &State, filter: &str, value: &str) -> bool {
    let summary = &state.summary;
    match filter {
        "id" => summary.id.starts_with(value),
        "name" => matches_name(value, &summary.name),
        "status" => status(value) == Some(state.status),
        "exited" => state.status == Status::Exited && value.parse() == Ok(state.exit_code),
        "health" => health(state) == value,
        "ancestor" => is_image(&summary.image, &summary.image_id, value),
        "publish" | "expose" => {
            let Some((range, protocol)) = parse_ports(value) else { return false };
            summary.ports.iter().any(|port| {
                (filter == "expose" || port.host.is_some())
                    && range.contains(&port.container_port)
                    && port.protocol == protocol
            })
        }
        // These are worked out beforehand.
        _ => true,
    }
}

fn health(state: &State) -> &'static str {
    state.health.as_ref().map_or("none", |health| match health.status {
        HealthStatus::Starting => "starting",
        HealthStatus::Healthy => "healthy",
        HealthStatus::Unhealthy => "unhealthy",
    })
}

/// Whether an image is meant by its name, with or without a tag, or by its identifier's beginning.
fn is_image(image: &str, id: &str, value: &str) -> bool {
    let digits = id.strip_prefix("sha256:").unwrap_or(id);
    let asked = value.strip_prefix("sha256:").unwrap_or(value);
    let is_hex = asked.len() >= 4 && asked.bytes().all(|byte| byte.is_ascii_hexdigit());
    let named = |text: &str| text.parse::<Reference>().ok();
    image == value
        || (is_hex && digits.starts_with(asked))
        || named(image).is_some_and(|image| named(value) == Some(image))
}

/// By a volume's name, a bind's source, or the path in the container.
fn has_volume(record: &ContainerRecord, value: &str) -> bool {
    record.mounts.iter().any(|mount| {
        mount.name.as_deref() == Some(value)
            || mount.target == value
            || mount.source.as_deref() == Some(std::path::Path::new(value))
    })
}
