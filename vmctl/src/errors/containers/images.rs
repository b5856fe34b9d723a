//! What can be done about images and networks that can't be had.

use std::error::Error;
use std::io;

use image::{BuildError, ImageError};
use network::NetworkError;
use runtime::RuntimeError;

use crate::errors::CliError;

/// Docker Hub, which `login` means unless it's told otherwise.
const DEFAULT_REGISTRY: &str = "docker.io";

/// What to do about a failure with an image.
pub(super) fn image_hint(error: &ImageError) -> Option<String> {
    Some(match error {
        ImageError::Reference(_) => {
            "a name is [HOST[:PORT]/]REPOSITORY[:TAG], its repository in lowercase".to_owned()
        }
        ImageError::NotFound { .. } => {
            "vmctl images lists images; vmctl pull NAME fetches one".to_owned()
        }
        ImageError::Ambiguous { .. } => {
            "give more of the identifier: vmctl images --no-trunc shows it whole".to_owned()
        }
        ImageError::InUse { .. } => {
            "vmctl ps -a lists containers, vmctl rm CONTAINER removes one".to_owned()
        }
        ImageError::NotInRegistry { reference, .. } => format!(
            "check the name and the tag; a private image needs {}",
            login(reference.split('/').next().filter(|host| host.contains(['.', ':'])))
        ),
        ImageError::Denied { registry, .. } => {
            format!(
                "{} gives it a name and a password; check the image's name, too",
                login(Some(registry))
            )
        }
        ImageError::Registry { registry, source } => registry_hint(registry, source.as_ref())?,
        ImageError::Invalid { .. } => {
            "nothing of it was kept; fetch it again, or from somebody else".to_owned()
        }
        ImageError::File { source, .. } => file_hint(source)?.to_owned(),
        ImageError::Store { .. } => {
            "it may be another version's: VMCTL_DATA_DIR names another data root".to_owned()
        }
        _ => return None,
    })
}

/// What to do about a build that failed.
pub(super) fn build_hint(error: &BuildError) -> Option<String> {
    match error {
        BuildError::Base { source, .. } => source.downcast_ref::<CliError>()?.hint(),
        BuildError::Run { source, .. } => {
            super::runtime_hint(source.downcast_ref::<RuntimeError>()?)
        }
        BuildError::Image { source, .. } => image_hint(source),
        BuildError::NoSuchStage { .. } => {
            Some("--target takes a name that follows AS, or a number counted from 0".to_owned())
        }
        BuildError::Command { .. } => Some(
            "--target builds the stages before; vmctl run IMAGE sh tries a command in them"
                .to_owned(),
        ),
        _ => None,
    }
}

/// How one logs in there.
fn login(registry: Option<&str>) -> String {
    match registry {
        None | Some(DEFAULT_REGISTRY) => "vmctl login".to_owned(),
        Some(registry) => format!("vmctl login {registry}"),
    }
}

fn registry_hint(registry: &str, error: &(dyn Error + 'static)) -> Option<String> {
    let (mut chain, mut next) = (Vec::new(), Some(error));
    while let Some(cause) = next {
        chain.push(cause);
        next = cause.source();
    }
    let kinds =
        || chain.iter().filter_map(|error| error.downcast_ref::<io::Error>()).map(io::Error::kind);
    let words = chain.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ").to_lowercase();
    let says = |word: &str| words.contains(word);
    let text = if kinds().any(|kind| kind == io::ErrorKind::ConnectionRefused)
        || says("connection refused")
    {
        format!("nobody listens at {registry}: check the host and the port")
    } else if says("dns") || says("lookup") || says("resolve") {
        "check the host's name, and this host's way to the network".to_owned()
    } else if says("certificate") || says("tls") || says("corrupt message") {
        "--insecure takes plain HTTP, and any certificate".to_owned()
    } else if kinds().any(|kind| kind == io::ErrorKind::TimedOut) || says("timed out") {
        "the registry is slow or hangs: what was fetched is kept, so try again".to_owned()
    } else {
        return kinds().any(|kind| kind == io::ErrorKind::StorageFull).then(|| FULL.to_owned());
    };
    Some(text)
}

/// What to do when there's no space left.
const FULL: &str = "vmctl system df shows what's used; vmctl system prune frees what isn't needed";

fn file_hint(error: &io::Error) -> Option<&'static str> {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Some(FULL),
        io::ErrorKind::PermissionDenied => {
            Some("it may be root's: VMCTL_DATA_DIR names another data root")
        }
        _ => None,
    }
}

/// What to do about a failure with a network.
pub(super) fn network_hint(error: &NetworkError) -> Option<String> {
    Some(match error {
        NetworkError::Absent(_) => {
            "vmctl network ls lists networks; vmctl network create makes one".to_owned()
        }
        NetworkError::Exists(_) => {
            "choose another name: vmctl network ls lists those that are taken".to_owned()
        }
        NetworkError::InUse { .. } => {
            "vmctl network inspect shows the containers on it; vmctl rm -f removes one".to_owned()
        }
        NetworkError::NoAddress(_) => {
            "choose another --subnet, or remove a network: vmctl network prune".to_owned()
        }
        NetworkError::PortInUse { .. } => {
            "choose another port with -p HOST-PORT:PORT, or stop what listens there (ss -ltnp)"
                .to_owned()
        }
        NetworkError::Port { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
            "ports below 1024 need root: choose a higher one with -p HOST-PORT:PORT".to_owned()
        }
        NetworkError::MissingProgram { package, .. } => format!("apt install {package}"),
        NetworkError::NotPermitted(_) => {
            "without root each container has a network of its own, by passt".to_owned()
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_access_hints_at_the_login() {
        let denied = |registry: &str| ImageError::Denied {
            registry: registry.to_owned(),
            what: "a/b".to_owned(),
            problem: "unauthorized".to_owned(),
        };
        let hint = image_hint(&denied("localhost:5000")).unwrap();
        assert!(hint.starts_with("vmctl login localhost:5000 "), "{hint}");
        let hint = image_hint(&denied("docker.io")).unwrap();
        assert!(hint.starts_with("vmctl login gives"), "{hint}");
    }

    #[test]
    fn registry_that_cannot_be_reached_says_what_to_check() {
        let hint = |source: Box<dyn Error + Send + Sync>| {
            let registry = "r.example:5000".to_owned();
            image_hint(&ImageError::Registry { registry, source })
        };
        let refused = hint(Box::new(io::Error::from(io::ErrorKind::ConnectionRefused))).unwrap();
        assert!(refused.contains("nobody listens at r.example:5000"), "{refused}");
        assert!(hint("invalid peer certificate".into()).unwrap().contains("--insecure"));
        assert!(hint("dns error".into()).unwrap().contains("host's name"));
        let full = hint(Box::new(io::Error::from(io::ErrorKind::StorageFull))).unwrap();
        assert!(full.contains("prune"), "{full}");
        assert_eq!(hint("anything else".into()), None);
    }
}
