//! DNS messages (RFC 1035). Queries are a guest's: hostile.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use simple_dns::rdata::{OPT, PTR, RData};
use simple_dns::{CLASS, Name, OPCODE, Packet, PacketFlag, Question, RCODE, ResourceRecord};

const HEADER_SIZE: usize = 12;
/// How long an answer may be kept, in seconds: containers come and go.
const TTL_S: u32 = 5;
/// The largest UDP message that's surely not cut into fragments.
const UDP_PAYLOAD: u16 = 1232;

/// A query of one question.
pub(super) struct Query<'a> {
    /// The message as it came.
    pub(super) bytes: &'a [u8],
    pub(super) question: Question<'a>,
    /// The name in lower case, without the last dot.
    pub(super) name: String,
    id: u16,
    wants_recursion: bool,
    has_opt: bool,
}

impl<'a> Query<'a> {
    /// Reads a message.
    ///
    /// # Errors
    /// What to answer to one that's no query of one question; nothing to what isn't a query at all.
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, Option<Vec<u8>>> {
        let [i0, i1, f0, _, q0, q1, an0, an1, ns0, ns1, ar0, ar1, ..] = *bytes else {
            return Err(None);
        };
        let id = u16::from_be_bytes([i0, i1]);
        if f0 & 0x80 != 0 {
            return Err(None);
        }
        // Before anything is counted on: these numbers say how much memory the parser takes.
        let counts = [[q0, q1], [an0, an1], [ns0, ns1], [ar0, ar1]].map(u16::from_be_bytes);
        let refusal = |code| Some(bare(id, f0, code));
        if f0 & 0x78 != 0 {
            return Err(refusal(RCODE::NotImplemented));
        }
        if !matches!(counts, [1, 0, 0, 0..=2]) {
            return Err(refusal(RCODE::FormatError));
        }
        let packet = Packet::parse(bytes).map_err(|_| refusal(RCODE::FormatError))?;
        let has_opt = packet.opt().is_some();
        let question = packet.questions.into_iter().next();
        let question = question.ok_or_else(|| refusal(RCODE::FormatError))?;
        let name = text(&question.qname).ok_or_else(|| refusal(RCODE::FormatError))?;
        Ok(Self { bytes, question, name, id, wants_recursion: f0 & 1 != 0, has_opt })
    }

    /// Answers with these, all about the name in question.
    pub(super) fn answer(&self, records: Vec<RData<'_>>) -> Vec<u8> {
        let mut reply = self.reply();
        let name = &self.question.qname;
        reply.answers = records
            .into_iter()
            .map(|data| ResourceRecord::new(name.clone(), CLASS::IN, TTL_S, data))
            .collect();
        self.encode(&reply)
    }

    /// Answers that an address is that of `name`, whatever kind of record was asked for.
    pub(super) fn pointer(&self, name: &str) -> Vec<u8> {
        match Name::new(name) {
            Ok(name) => self.answer(vec![RData::PTR(PTR(name))]),
            Err(_) => self.failure(RCODE::NameError),
        }
    }

    /// Answers that there's no answer.
    pub(super) fn failure(&self, code: RCODE) -> Vec<u8> {
        let mut reply = self.reply();
        *reply.rcode_mut() = code;
        self.encode(&reply)
    }

    fn reply(&self) -> Packet<'a> {
        let mut reply = Packet::new_reply(self.id);
        *reply.opcode_mut() = OPCODE::StandardQuery;
        reply.set_flags(PacketFlag::RECURSION_AVAILABLE);
        if self.wants_recursion {
            reply.set_flags(PacketFlag::RECURSION_DESIRED);
        }
        reply.questions.push(self.question.clone());
        if self.has_opt {
            *reply.opt_mut() =
                Some(OPT { opt_codes: Vec::new(), udp_packet_size: UDP_PAYLOAD, version: 0 });
        }
        reply
    }

    fn encode(&self, reply: &Packet<'_>) -> Vec<u8> {
        reply.build_bytes_vec_compressed().unwrap_or_else(|error| {
            log::debug!("a DNS answer can't be written: {error}");
            bare(self.id, u8::from(self.wants_recursion), RCODE::ServerFailure)
        })
    }
}

/// An answer without a question, to a query whose own can't be read.
fn bare(id: u16, f0: u8, code: RCODE) -> Vec<u8> {
    let mut answer = vec![0; HEADER_SIZE];
    let [i0, i1] = id.to_be_bytes();
    // It's an answer; of the query's flags its kind and "recursion desired" come back.
    let flags = [i0, i1, 0x80 | f0 & 0x79, 0x80 | code as u8];
    answer.splice(..flags.len(), flags);
    answer
}

/// A name as text: none for one that no container can have and no resolver can be asked by text.
fn text(name: &Name<'_>) -> Option<String> {
    let labels = name.as_bytes().map(std::str::from_utf8).collect::<Result<Vec<_>, _>>();
    Some(labels.ok()?.join(".").to_ascii_lowercase())
}

/// The address that a name of `in-addr.arpa` or `ip6.arpa` stands for.
pub(super) fn reverse(name: &str) -> Option<IpAddr> {
    if let Some(rest) = name.strip_suffix(".in-addr.arpa") {
        let mut octets = [0; 4];
        let mut parts = rest.split('.');
        for octet in octets.iter_mut().rev() {
            *octet = parts.next()?.parse().ok()?;
        }
        return parts.next().is_none().then(|| Ipv4Addr::from(octets).into());
    }
    let rest = name.strip_suffix(".ip6.arpa")?;
    let mut bits = 0;
    let mut digits = 0u32;
    for part in rest.split('.') {
        let digit = u128::from_str_radix(part, 16).ok().filter(|_| part.len() == 1)?;
        bits |= digit.checked_shl(digits.checked_mul(4)?)?;
        digits += 1;
    }
    (digits == 32).then(|| Ipv6Addr::from_bits(bits).into())
}
