//! Names: a container's DNS queries are answered from the records of its networks, or passed on to
//! the host's resolvers.

mod message;
mod names;
mod upstream;

use std::net::IpAddr;

use simple_dns::rdata::RData;
use simple_dns::{QCLASS, QTYPE, RCODE, TYPE};

use self::message::Query;
use self::names::Names;
pub use self::upstream::Upstream;
use crate::Networks;

/// The names under which a container finds the host, as Docker and Podman have them.
const HOST_NAMES: [&str; 3] =
    ["host.docker.internal", "gateway.docker.internal", "host.containers.internal"];

/// Answers the queries of one container.
#[derive(Debug)]
pub struct Dns {
    networks: Networks,
    container: String,
    upstream: Upstream,
}

impl Dns {
    /// Answers for the container of this identifier. Names of others on its networks are looked up
    /// in the records with each query: they come and go.
    #[must_use]
    pub fn new(networks: Networks, container: impl Into<String>, upstream: Upstream) -> Self {
        Self { networks, container: container.into(), upstream }
    }

    /// Answers a DNS message (without the length that precedes it in streams). May take as long as
    /// the host's resolvers; none for what isn't a query, which deserves no answer.
    #[must_use]
    pub fn answer(&self, query: &[u8]) -> Option<Vec<u8>> {
        let names = Names::of(&self.networks, &self.container).unwrap_or_else(|error| {
            log::warn!("containers' names can't be read: {error}");
            Names::default()
        });
        answer(query, &names, &self.upstream)
    }
}

/// Answers a query from `names`, else by `upstream`.
fn answer(query: &[u8], names: &Names, upstream: &Upstream) -> Option<Vec<u8>> {
    let query = match Query::parse(query) {
        Ok(query) => query,
        Err(refusal) => return refusal,
    };
    if !matches!(query.question.qclass, QCLASS::CLASS(simple_dns::CLASS::IN) | QCLASS::ANY) {
        return Some(query.failure(RCODE::Refused));
    }
    if matches!(query.question.qtype, QTYPE::AXFR | QTYPE::IXFR) {
        return Some(query.failure(RCODE::Refused));
    }
    if let Some(address) = message::reverse(&query.name) {
        return Some(match names.name_of(address) {
            Some(name) => query.pointer(name),
            // Others of our own networks are nobody else's business.
            None if names.covers(address) => query.failure(RCODE::NameError),
            None => pass_on(&query, upstream),
        });
    }
    Some(match names.addresses_of(&query.name) {
        Some(addresses) => query.addresses(addresses),
        None => pass_on(&query, upstream),
    })
}

fn pass_on(query: &Query<'_>, upstream: &Upstream) -> Vec<u8> {
    upstream.ask(query.bytes).unwrap_or_else(|| query.failure(RCODE::ServerFailure))
}

impl Query<'_> {
    /// Answers with those addresses that are of the kind that's asked for.
    fn addresses(&self, addresses: &[IpAddr]) -> Vec<u8> {
        let wants = |kind: TYPE| {
            matches!(self.question.qtype, QTYPE::ANY) || self.question.qtype == QTYPE::TYPE(kind)
        };
        let records = addresses.iter().filter_map(|address| match address {
            IpAddr::V4(v4) if wants(TYPE::A) => Some(RData::A((*v4).into())),
            IpAddr::V6(v6) if wants(TYPE::AAAA) => Some(RData::AAAA((*v6).into())),
            _ => None,
        });
        self.answer(records.collect())
    }
}

#[cfg(test)]
mod tests;
