//! CPU templates: changes to what the guest's CPUs announce, in Firecracker's format.

use std::fmt;
use std::ops::{BitAnd, BitOr, Not};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use utoipa::ToSchema;

use crate::schema::{Bitmap32, Bitmap64, CapabilityNumber, Number32};

/// `cpu-config`: changes to what the guest's CPUs announce, made after this VMM's own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CpuTemplate {
    /// KVM's capabilities that the VM needs beside the usual ones, or does without.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<CapabilityNumber>)]
    pub kvm_capabilities: Vec<KvmCapability>,
    /// Changes to CPUID's answers; later ones see what earlier ones made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cpuid_modifiers: Vec<CpuidLeafModifier>,
    /// Changes to model-specific registers, made on each vCPU before it first runs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub msr_modifiers: Vec<MsrModifier>,
}

/// Changes to one leaf and subleaf of CPUID.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CpuidLeafModifier {
    /// The leaf: EAX of the instruction.
    #[serde(with = "number32")]
    #[schema(value_type = Number32)]
    pub leaf: u32,
    /// The subleaf: ECX of the instruction.
    #[serde(with = "number32")]
    #[schema(value_type = Number32)]
    pub subleaf: u32,
    /// KVM's flags of the entry; bit 0 says that the subleaf counts.
    #[schema(maximum = 4_294_967_295_u32)]
    pub flags: u32,
    /// What becomes of its registers.
    pub modifiers: Vec<CpuidModifier>,
}

/// A change to one register of CPUID's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CpuidModifier {
    /// The register.
    pub register: CpuidRegister,
    /// What becomes of it.
    #[schema(value_type = Bitmap32)]
    pub bitmap: Bitmap<u32>,
}

/// A register of CPUID's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum CpuidRegister {
    /// EAX.
    Eax,
    /// EBX.
    Ebx,
    /// ECX.
    Ecx,
    /// EDX.
    Edx,
}

/// A change to one model-specific register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MsrModifier {
    /// The register's number: ECX of the instruction.
    #[serde(with = "number32")]
    #[schema(value_type = Number32)]
    pub addr: u32,
    /// What becomes of it.
    #[schema(value_type = Bitmap64)]
    pub bitmap: Bitmap<u64>,
}

/// A capability of KVM (`KVM_CAP_*`) that a template asks for, written `"121"`, or does without,
/// written `"!121"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KvmCapability {
    /// The VM can't start without it.
    Needed(u32),
    /// The VM starts without it, though this VMM would otherwise ask for it.
    Waived(u32),
}

impl Serialize for KvmCapability {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Needed(number) => serializer.collect_str(number),
            Self::Waived(number) => serializer.collect_str(&format_args!("!{number}")),
        }
    }
}

impl<'de> Deserialize<'de> for KvmCapability {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let (digits, waived) = match text.strip_prefix('!') {
            Some(digits) => (digits, true),
            None => (text.as_str(), false),
        };
        let number = digits.bytes().all(|digit| digit.is_ascii_digit()).then(|| digits.parse());
        match number {
            Some(Ok(number)) if waived => Ok(Self::Waived(number)),
            Some(Ok(number)) => Ok(Self::Needed(number)),
            _ => Err(de::Error::custom(format_args!(
                "{text:?} is no capability of KVM: expected a number such as \"121\" or \"!121\""
            ))),
        }
    }
}

/// What becomes of a register's bits: some are cleared, some are set, the others are left.
///
/// Written as a string from the highest bit to the lowest, with `0`, `1` and `x`, and optionally
/// `0b` before it and `_` between digits; bits that aren't written are left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Bitmap<T> {
    /// The bits that are cleared or set.
    pub mask: T,
    /// The values of those bits; no others are set here.
    pub value: T,
}

/// An integer as wide as a register.
pub trait Register:
    Copy
    + Default
    + From<bool>
    + BitAnd<Output = Self>
    + BitOr<Output = Self>
    + Not<Output = Self>
    + PartialEq
{
    /// How many bits it has.
    const BITS: u32;

    /// The bits one place higher; the highest is lost.
    #[must_use]
    fn doubled(self) -> Self;

    /// Whether a bit is set, counted from the lowest.
    #[must_use]
    fn bit(self, index: u32) -> bool;
}

macro_rules! register {
    ($($type:ty)*) => {$(
        impl Register for $type {
            const BITS: u32 = <$type>::BITS;

            fn doubled(self) -> Self {
                self << 1
            }

            fn bit(self, index: u32) -> bool {
                self.checked_shr(index).is_some_and(|rest| rest & 1 == 1)
            }
        }
    )*};
}

register!(u32 u64);

impl<T: Register> Bitmap<T> {
    /// The register's value after the change.
    #[must_use]
    pub fn apply(self, register: T) -> T {
        (register & !self.mask) | self.value
    }

    fn parse(text: &str) -> Result<Self, String> {
        let digits = text.strip_prefix("0b").unwrap_or(text);
        let mut bitmap = Self::default();
        let mut len: u32 = 0;
        for digit in digits.chars().filter(|&digit| digit != '_') {
            let (mask, value) = match digit {
                '0' => (true, false),
                '1' => (true, true),
                'x' => (false, false),
                _ => return Err(format!("has {digit:?}; its digits are 0, 1 and x")),
            };
            bitmap.mask = bitmap.mask.doubled() | T::from(mask);
            bitmap.value = bitmap.value.doubled() | T::from(value);
            len += 1;
            if len > T::BITS {
                return Err(format!("is too long: the register has {} bits", T::BITS));
            }
        }
        if len == 0 { Err("has no digits".to_owned()) } else { Ok(bitmap) }
    }
}

impl<T: Register> fmt::Display for Bitmap<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("0b")?;
        for index in (0..T::BITS).rev() {
            f.write_str(match (self.mask.bit(index), self.value.bit(index)) {
                (false, _) => "x",
                (true, false) => "0",
                (true, true) => "1",
            })?;
        }
        Ok(())
    }
}

impl<T: Register> Serialize for Bitmap<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de, T: Register> Deserialize<'de> for Bitmap<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(|reason| {
            let start: String = text.chars().take(80).collect();
            de::Error::custom(format_args!("the bitmap {start:?} {reason}"))
        })
    }
}

/// Numbers that are written as strings: `"0x1a"`, `"0b11010"`, `"26"`.
mod number32 {
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(value: &u32, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{value:#x}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
        let text = String::deserialize(deserializer)?;
        let (digits, radix) = match (text.strip_prefix("0x"), text.strip_prefix("0b")) {
            (Some(digits), _) => (digits, 16),
            (_, Some(digits)) => (digits, 2),
            _ => (text.as_str(), 10),
        };
        // `from_str_radix` would take a sign.
        let number = digits.chars().all(|digit| digit.is_digit(radix)).then_some(digits);
        number.and_then(|digits| u32::from_str_radix(digits, radix).ok()).ok_or_else(|| {
            de::Error::custom(format_args!(
                "{text:?} is no 32-bit number: expected decimal digits, or hexadecimal ones \
                 after 0x, or binary ones after 0b"
            ))
        })
    }
}
