//! Making the VM this container's: names, network, time, randomness.

use std::fs::OpenOptions;
use std::sync::Arc;

use agent_proto::Configuration;
use rustix::time::{ClockId, Timespec, clock_settime};

use crate::fault::{Context, ErrorKind, Result};
use crate::{boot, dns, files, network, sys};

/// What was set up and stays.
#[derive(Debug, Default)]
pub(crate) struct State {
    relay: Option<Arc<dns::Relay>>,
}

/// Applies a configuration.
pub(crate) fn apply(configuration: &Configuration, state: &mut State) -> Result<()> {
    // Randomness first: everything after it may use some.
    if let Some(digits) = &configuration.entropy {
        let bytes = from_hex(digits)?;
        let random = OpenOptions::new().write(true).open("/dev/urandom");
        let random = random.internal("cannot open /dev/urandom")?;
        sys::add_entropy(random, &bytes).internal("cannot add entropy")?;
    }
    if let Some(clock) = configuration.clock {
        let time = Timespec {
            tv_sec: i64::try_from(clock.seconds)
                .context(ErrorKind::Invalid, || "the time".into())?,
            tv_nsec: i64::from(clock.nanoseconds),
        };
        clock_settime(ClockId::Realtime, time).context(ErrorKind::Invalid, || "the time".into())?;
    }
    let name = |what: &str| format!("cannot set the {what} name");
    if !configuration.hostname.is_empty() {
        rustix::system::sethostname(configuration.hostname.as_bytes())
            .context(ErrorKind::Invalid, || name("host"))?;
    }
    if let Some(domain) = &configuration.domainname {
        rustix::system::setdomainname(domain.as_bytes())
            .context(ErrorKind::Invalid, || name("domain"))?;
    }
    files::write(configuration)?;
    network::configure(&configuration.interfaces)?;
    for (name, value) in &configuration.sysctls {
        let what = || format!("cannot set the kernel parameter {name}");
        boot::set_sysctl(name, value).context(ErrorKind::Invalid, what)?;
    }
    if configuration.dns.relay && state.relay.is_none() {
        state.relay = Some(dns::Relay::start().context(ErrorKind::Network, || {
            format!("cannot answer DNS queries at {}:53", files::RELAY_ADDRESS)
        })?);
    }
    Ok(())
}

fn from_hex(digits: &str) -> Result<Vec<u8>> {
    let digit =
        |byte: &u8| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let bytes: Option<Vec<u8>> = digits
        .as_bytes()
        .chunks(2)
        .map(|pair| match pair {
            [high, low] => Some(digit(high)? << 4 | digit(low)?),
            _ => None,
        })
        .collect();
    bytes.ok_or("no hexadecimal digits").context(ErrorKind::Invalid, || "the entropy".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entropy_is_hexadecimal() {
        assert_eq!(from_hex("00fF7a").unwrap(), [0, 255, 0x7a]);
        assert!(from_hex("").unwrap().is_empty());
        for bad in ["0", "0g", "äö"] {
            assert!(from_hex(bad).is_err(), "{bad}");
        }
    }
}
