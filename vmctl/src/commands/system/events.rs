//! `vmctl events`.

use std::time::SystemTime;

use clap::Args;
use runtime::{Engine, EngineEvent, EventOptions};
use serde_json::{Value, json};

use crate::commands::container::values::times;
use crate::errors::CliError;
use crate::errors::containers::ContainerError;
use crate::format::filters::Filters;
use crate::format::{self, one_line};
use crate::output;

/// The filters that there are.
const FILTERS: [&str; 7] = ["container", "event", "image", "label", "network", "type", "volume"];

/// Get real time events.
///
/// Only those that happen from now on, unless --since is given.
#[derive(Debug, Args)]
#[command(disable_version_flag = true)]
pub(crate) struct EventsArgs {
    /// Filter output: container, event, image, label, network, type, volume, each =VALUE.
    #[arg(long, short, value_name = "FILTER")]
    filter: Vec<String>,

    /// Format output: json, or a Go template.
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,

    /// Show all events created since timestamp (2026-01-02T13:23:37Z) or relative (42m).
    #[arg(long, value_name = "TIME", value_parser = times::moment)]
    since: Option<SystemTime>,

    /// Stream events until this timestamp, or one that was so long ago.
    #[arg(long, value_name = "TIME", value_parser = times::moment)]
    until: Option<SystemTime>,
}

pub(super) fn run(engine: &Engine, args: &EventsArgs) -> Result<u8, CliError> {
    let filters = Filters::parse(&args.filter, &FILTERS).map_err(ContainerError::from)?;
    let options =
        EventOptions { since: args.since, until: args.until, filters: filters.values().clone() };
    // A template that's wrong is refused before anything has to happen.
    if let Some(format) = &args.format {
        format::check(format).map_err(ContainerError::from)?;
    }
    for event in engine.events(&options).map_err(ContainerError::from)? {
        let event = event.map_err(ContainerError::from)?;
        if !output::print_or_end(&text(&event, args.format.as_deref())?)? {
            break;
        }
    }
    Ok(api::exit::STOPPED)
}

fn text(event: &EngineEvent, format: Option<&str>) -> Result<String, ContainerError> {
    match format {
        None => Ok(in_words(event)),
        Some("json") => Ok(format!("{}\n", wire(event))),
        Some(template) => Ok(format::render_each(&[fields(event)], template)?),
    }
}

/// `2026-01-31T08:00:00.123456789Z container start 0123… (image=nginx, name=web)`.
fn in_words(event: &EngineEvent) -> String {
    let facts = event.attributes.iter().map(|(key, value)| format!("{key}={value}"));
    let facts: Vec<_> = facts.collect();
    let facts = if facts.is_empty() { String::new() } else { format!(" ({})", facts.join(", ")) };
    let time = times::rfc3339(event.time);
    let (kind, action, id) = (&event.kind, &event.action, &event.id);
    format!("{}\n", one_line(&format!("{time} {kind} {action} {id}{facts}")))
}

/// The moment in seconds and in nanoseconds since 1970.
fn since_1970(event: &EngineEvent) -> (u64, u64) {
    let time = event.time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    (time.as_secs(), u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
}

/// The image of a container's event.
fn from(event: &EngineEvent) -> &str {
    event.attributes.get("image").map_or("", String::as_str)
}

/// What templates see.
fn fields(event: &EngineEvent) -> Value {
    let (seconds, nanos) = since_1970(event);
    json!({
        "Type": event.kind,
        "Action": event.action,
        "Actor": {"ID": event.id, "Attributes": event.attributes},
        "ID": event.id,
        "Status": event.action,
        "From": from(event),
        "Scope": "local",
        "Time": seconds,
        "TimeNano": nanos,
    })
}

/// The event as Docker's API has it.
fn wire(event: &EngineEvent) -> Value {
    let (seconds, nanos) = since_1970(event);
    json!({
        "status": event.action,
        "id": event.id,
        "from": from(event),
        "Type": event.kind,
        "Action": event.action,
        "Actor": {"ID": event.id, "Attributes": event.attributes},
        "scope": "local",
        "time": seconds,
        "timeNano": nanos,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::*;

    fn event() -> EngineEvent {
        let attributes = [("image", "nginx"), ("name", "web")];
        EngineEvent {
            time: SystemTime::UNIX_EPOCH + Duration::new(1_700_000_000, 5),
            kind: "container".to_owned(),
            action: "start".to_owned(),
            id: "abc".to_owned(),
            attributes: attributes.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
        }
    }

    #[test]
    fn events_are_written_as_docker_writes_them() {
        let words = "2023-11-14T22:13:20.000000005Z container start abc (image=nginx, name=web)\n";
        assert_eq!(text(&event(), None).unwrap(), words);
        let bare = EngineEvent { attributes: BTreeMap::new(), ..event() };
        assert!(text(&bare, None).unwrap().ends_with("start abc\n"));
        let template = "{{.Type}} {{.Actor.Attributes.name}} {{.From}} {{.TimeNano}}";
        let line = text(&event(), Some(template)).unwrap();
        assert_eq!(line, "container web nginx 1700000000000000005\n");
        let json: Value = serde_json::from_str(&text(&event(), Some("json")).unwrap()).unwrap();
        assert_eq!(json["time"], 1_700_000_000);
        assert_eq!(json["Actor"]["ID"], "abc");
    }

    #[test]
    fn event_of_a_hostile_name_is_one_line() {
        let name = ("name".to_owned(), "a\n\u{1b}[2J".to_owned());
        let event = EngineEvent { attributes: [name].into(), ..event() };
        let line = text(&event, None).unwrap();
        assert!(line.ends_with("(name=a??[2J)\n"), "{line}");
    }
}
