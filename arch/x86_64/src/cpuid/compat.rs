//! Whether a guest that has seen one host's CPU can go on on another's.

use serde::{Deserialize, Serialize};

use super::features::{DYNAMIC_OR_OWN, FEATURE_WORDS, name};
use super::{CpuidEntry, Register, address_bits, vendor};

/// Leaf of the extended state's components (SDM 2A, CPUID).
const XSAVE_LEAF: u32 = 0xd;
/// First subleaf that describes one component; 0 and 1 describe all.
const FIRST_XSAVE_COMPONENT: u32 = 2;
/// Leaf 0xd.n ECX: the component is a supervisor's, which the standard format leaves out.
const XSAVE_SUPERVISOR: u32 = 1 << 0;

/// What a guest was told of its CPU and may depend on, in a snapshot's header.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuSnapshot {
    /// The vendor's name, as the CPU spells it.
    pub vendor: String,
    /// How wide a guest-physical address is, in bits.
    pub address_bits: u8,
    /// How many bytes a vCPU's extended state has.
    pub xsave_bytes: u64,
    /// Every feature that the guest saw and the host backed.
    pub features: Vec<FeatureWord>,
    /// Where the extended state's components lie.
    #[serde(default)]
    pub xsave_components: Vec<XsaveComponent>,
}

/// One register of CPUID whose bits are features.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeatureWord {
    /// Leaf.
    pub leaf: u32,
    /// Subleaf.
    pub subleaf: u32,
    /// Register.
    pub register: Register,
    /// The features.
    pub bits: u32,
}

/// A part of the extended state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct XsaveComponent {
    /// Its bit in XCR0.
    pub number: u32,
    /// Its size in bytes.
    pub size_bytes: u32,
    /// Its place in the standard format, in bytes.
    pub offset_bytes: u32,
}

/// Why a guest can't go on on this host.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IncompatibleCpu {
    /// Another make of CPU.
    #[error("the snapshot is of a guest on a CPU of {saved:?}; this host's is of {host:?}")]
    Vendor {
        /// The snapshot's.
        saved: String,
        /// The host's.
        host: String,
    },
    /// Features are missing.
    #[error("this host's CPU or its KVM lacks what the guest has seen: {}", .0.join(", "))]
    MissingFeatures(Vec<String>),
    /// The host's guests have a narrower physical address.
    #[error("the guest has {saved}-bit physical addresses; this host gives {host} bits")]
    AddressBits {
        /// The guest's.
        saved: u8,
        /// The host's.
        host: u8,
    },
    /// The extended state is too large.
    #[error("a vCPU's extended state has {saved} bytes; this host's has {host}")]
    XsaveSize {
        /// The guest's.
        saved: u64,
        /// The host's.
        host: u64,
    },
    /// A component of the extended state lies elsewhere.
    #[error("component {number} of the extended state lies elsewhere on this host")]
    XsaveLayout {
        /// Its bit in XCR0.
        number: u32,
    },
}

impl CpuSnapshot {
    /// Describes the CPU of a `guest` on a `host` whose extended state has `xsave_bytes` bytes.
    ///
    /// A bit that a template set though the host doesn't have it isn't recorded: the guest had to do
    /// without it from the start.
    pub fn new(guest: &[CpuidEntry], host: &[CpuidEntry], xsave_bytes: u64) -> Self {
        let features = FEATURE_WORDS
            .iter()
            .map(|&(leaf, subleaf, register, _)| {
                let bits = |entries| bits(entries, leaf, subleaf, register);
                FeatureWord { leaf, subleaf, register, bits: bits(guest) & bits(host) }
            })
            .filter(|word| word.bits != 0)
            .collect();
        Self {
            vendor: vendor(guest),
            address_bits: address_bits(guest),
            xsave_bytes,
            features,
            xsave_components: xsave_components(guest).collect(),
        }
    }

    /// Checks that a `host` whose extended state has `xsave_bytes` bytes can go on with the guest.
    ///
    /// # Errors
    /// [`IncompatibleCpu`], with all missing features at once.
    pub fn check(&self, host: &[CpuidEntry], xsave_bytes: u64) -> Result<(), IncompatibleCpu> {
        let host_vendor = vendor(host);
        if self.vendor != host_vendor {
            let saved = self.vendor.clone();
            return Err(IncompatibleCpu::Vendor { saved, host: host_vendor });
        }
        let missing: Vec<_> = self.features.iter().flat_map(|word| word.missing(host)).collect();
        if !missing.is_empty() {
            return Err(IncompatibleCpu::MissingFeatures(missing));
        }
        let host_bits = address_bits(host);
        if self.address_bits > host_bits {
            return Err(IncompatibleCpu::AddressBits { saved: self.address_bits, host: host_bits });
        }
        if self.xsave_bytes > xsave_bytes {
            return Err(IncompatibleCpu::XsaveSize { saved: self.xsave_bytes, host: xsave_bytes });
        }
        let moved =
            |component: &&XsaveComponent| !xsave_components(host).any(|host| host == **component);
        match self.xsave_components.iter().find(moved) {
            Some(component) => Err(IncompatibleCpu::XsaveLayout { number: component.number }),
            None => Ok(()),
        }
    }
}

impl FeatureWord {
    /// Names the features that `host` lacks.
    fn missing(self, host: &[CpuidEntry]) -> impl Iterator<Item = String> + use<> {
        let Self { leaf, subleaf, register, .. } = self;
        let missing = self.bits & !bits(host, leaf, subleaf, register);
        (0..u32::BITS)
            .filter(move |bit| missing >> bit & 1 != 0)
            .map(move |bit| name(leaf, subleaf, register, bit))
    }
}

/// Returns the features in one register, less those that tell nothing of the host.
fn bits(entries: &[CpuidEntry], leaf: u32, subleaf: u32, register: Register) -> u32 {
    let entry = entries.iter().find(|entry| entry.function == leaf && entry.index == subleaf);
    let other = DYNAMIC_OR_OWN
        .iter()
        .filter(|(other, at, of, _)| (*other, *at, *of) == (leaf, subleaf, register))
        .fold(0, |all, (.., bits)| all | bits);
    entry.map_or(0, |entry| entry.register(register)) & !other
}

/// Lists the components that the standard format has room for.
fn xsave_components(entries: &[CpuidEntry]) -> impl Iterator<Item = XsaveComponent> {
    entries
        .iter()
        .filter(|entry| entry.function == XSAVE_LEAF && entry.index >= FIRST_XSAVE_COMPONENT)
        .filter(|entry| entry.eax != 0 && entry.ecx & XSAVE_SUPERVISOR == 0)
        .map(|entry| XsaveComponent {
            number: entry.index,
            size_bytes: entry.eax,
            offset_bytes: entry.ebx,
        })
}
