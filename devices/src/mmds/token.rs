//! Session tokens: proofs that their holder asked for them lately.
//!
//! Nothing is kept of a token: it carries its own expiry and a MAC over it, under a key that
//! only this VM's service has.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The lifetimes that a token can have, in seconds.
pub(super) const TTL_SECONDS: std::ops::RangeInclusive<u32> = 1..=21600;

/// The length of a token as text.
const TEXT_SIZE: usize = size_of::<Token>() / 3 * 4;
const _: () = assert!(size_of::<Token>().is_multiple_of(3));

/// What the MAC is over.
#[derive(FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
struct Claims {
    /// Milliseconds after the authority's start. Not the host's clock: a guest reads this.
    expiry_ms: U64,
    /// Makes two tokens of the same moment differ.
    serial: U64,
}

#[derive(FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
struct Token {
    claims: Claims,
    mac: [u8; 32],
}

/// Makes tokens and knows its own.
pub(super) struct TokenAuthority {
    keyed: Hmac<Sha256>,
    start: Instant,
    serial: AtomicU64,
}

impl fmt::Debug for TokenAuthority {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("TokenAuthority").finish_non_exhaustive()
    }
}

impl TokenAuthority {
    /// Creates an authority with a key of its own.
    ///
    /// # Errors
    /// When the host has no random numbers.
    pub(super) fn new() -> io::Result<Self> {
        // A key of SHA-256's block size is used as it is (RFC 2104 §2).
        let mut key = [0; 64];
        rustix::rand::getrandom(&mut key, rustix::rand::GetRandomFlags::empty())?;
        let keyed = Hmac::new(&key.into());
        Ok(Self { keyed, start: Instant::now(), serial: AtomicU64::new(0) })
    }

    /// Makes a token that is valid for `ttl_seconds` from `now`; none if it can't live that long.
    pub(super) fn issue(&self, ttl_seconds: u32, now: Instant) -> Option<String> {
        if !TTL_SECONDS.contains(&ttl_seconds) {
            return None;
        }
        let expiry = self.age(now).saturating_add(Duration::from_secs(ttl_seconds.into()));
        let claims = Claims {
            expiry_ms: milliseconds(expiry).into(),
            serial: self.serial.fetch_add(1, Ordering::Relaxed).into(),
        };
        let mac = self.keyed.clone().chain_update(claims.as_bytes()).finalize().into_bytes();
        Some(URL_SAFE_NO_PAD.encode(Token { claims, mac: mac.into() }.as_bytes()))
    }

    /// Tells whether `text` is a token of this authority that is valid at `now`.
    pub(super) fn is_valid(&self, text: &[u8], now: Instant) -> bool {
        if text.len() != TEXT_SIZE {
            return false;
        }
        let mut bytes = [0; size_of::<Token>()];
        let decoded = URL_SAFE_NO_PAD.decode_slice(text, &mut bytes);
        if decoded.is_err() {
            return false;
        }
        let token: Token = zerocopy::transmute!(bytes);
        // Takes the same time wherever the MACs differ.
        let mac = self.keyed.clone().chain_update(token.claims.as_bytes());
        mac.verify_slice(&token.mac).is_ok()
            && milliseconds(self.age(now)) < token.claims.expiry_ms.get()
    }

    fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.start)
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_is_valid_until_its_last_second_ends() {
        let authority = TokenAuthority::new().unwrap();
        let now = Instant::now();
        for ttl in [1, 60, 21600] {
            let token = authority.issue(ttl, now).unwrap();
            let end = now + Duration::from_secs(ttl.into());
            assert!(authority.is_valid(token.as_bytes(), now));
            assert!(authority.is_valid(token.as_bytes(), end - Duration::from_millis(2)));
            assert!(!authority.is_valid(token.as_bytes(), end));
            assert!(!authority.is_valid(token.as_bytes(), end + Duration::from_secs(1 << 30)));
        }
    }

    #[test]
    fn lifetimes_out_of_range_get_no_token() {
        let authority = TokenAuthority::new().unwrap();
        for ttl in [0, 21601, u32::MAX] {
            assert_eq!(authority.issue(ttl, Instant::now()), None);
        }
    }

    #[test]
    fn changed_cut_and_foreign_tokens_are_refused() {
        let (authority, now) = (TokenAuthority::new().unwrap(), Instant::now());
        let token = authority.issue(60, now).unwrap();
        assert_eq!(token.len(), TEXT_SIZE);
        for index in 0..token.len() {
            let mut forged = token.clone().into_bytes();
            forged[index] = if forged[index] == b'A' { b'B' } else { b'A' };
            assert!(!authority.is_valid(&forged, now), "{index}");
            assert!(!authority.is_valid(&token.as_bytes()[..index], now), "{index}");
        }
        let longer = format!("{token}A");
        for text in [&b""[..], b"!", longer.as_bytes(), &[0xff; TEXT_SIZE], &[b'A'; TEXT_SIZE]] {
            assert!(!authority.is_valid(text, now));
        }
        assert!(!TokenAuthority::new().unwrap().is_valid(token.as_bytes(), now));
    }

    #[test]
    fn tokens_of_the_same_moment_differ() {
        let (authority, now) = (TokenAuthority::new().unwrap(), Instant::now());
        assert_ne!(authority.issue(60, now), authority.issue(60, now));
    }

    #[test]
    fn key_is_not_shown() {
        let shown = format!("{:?}", TokenAuthority::new().unwrap());
        assert_eq!(shown, "TokenAuthority { .. }");
    }
}
