//! KVM's structures in a JSON document.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// One of KVM's structures, saved as the base64 of its bytes.
///
/// What is read back must have exactly the structure's length: the kernel's interface never changes
/// it, so any other one is damage.
#[derive(Clone, Copy, Default)]
pub(crate) struct KvmBytes<T>(pub(crate) T);

impl<T: IntoBytes + Immutable> PartialEq for KvmBytes<T> {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_bytes() == other.0.as_bytes()
    }
}

impl<T: IntoBytes + Immutable> fmt::Debug for KvmBytes<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&STANDARD.encode(self.0.as_bytes()))
    }
}

impl<T: IntoBytes + Immutable> Serialize for KvmBytes<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(self.0.as_bytes()))
    }
}

impl<'de, T: FromBytes> Deserialize<'de> for KvmBytes<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = base64_bytes::deserialize(deserializer)?;
        T::read_from_bytes(&bytes).map(Self).map_err(|_| {
            D::Error::invalid_length(bytes.len(), &format!("{} bytes", size_of::<T>()).as_str())
        })
    }
}

/// Bytes of any length, for serde's `with`.
pub(crate) mod base64_bytes {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD.decode(text).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use kvm_bindings::{kvm_debugregs, kvm_irqchip, kvm_lapic_state};

    use super::*;

    #[test]
    fn structure_comes_back_as_it_was() {
        let mut registers = KvmBytes(kvm_debugregs::default());
        registers.0.dr7 = 0x400;
        let text = serde_json::to_string(&registers).unwrap();
        assert_eq!(serde_json::from_str::<KvmBytes<kvm_debugregs>>(&text).unwrap(), registers);
    }

    #[test]
    fn wrong_length_and_wrong_text_are_errors() {
        let short = STANDARD.encode([0; 1023]);
        let long = STANDARD.encode([0; 1025]);
        for text in [short.as_str(), &long, "", "%%%%"] {
            let text = format!("\"{text}\"");
            assert!(serde_json::from_str::<KvmBytes<kvm_lapic_state>>(&text).is_err(), "{text}");
            assert!(serde_json::from_str::<KvmBytes<kvm_irqchip>>(&text).is_err(), "{text}");
        }
        for text in ["7", "[0,0]", "null"] {
            assert!(serde_json::from_str::<KvmBytes<kvm_lapic_state>>(text).is_err(), "{text}");
        }
    }
}
