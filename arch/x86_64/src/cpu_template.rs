//! Changes that a user asks for in what the guest's CPUs are.
//!
//! They are made to what the host's KVM offers, before [`crate::cpuid::guest_entries`] gives each
//! vCPU its place and hides what no guest gets: a template can't undo those.

use std::fmt;
use std::ops::{BitAnd, BitOr, Not};

use crate::cpuid::{CpuidEntry, Register};

/// All changes to one machine's CPUs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuTemplate {
    /// Changes to CPUID, in order: later ones see what earlier ones made.
    pub cpuid: Vec<CpuidModifier>,
    /// Changes to model-specific registers, in order.
    pub msrs: Vec<MsrModifier>,
    /// What the host's KVM must be able to do.
    pub kvm_capabilities: Vec<KvmCapability>,
}

/// What becomes of a register's bits: those in `mask` take their value from `value`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bitmap<T> {
    /// The bits that are set or cleared.
    pub mask: T,
    /// Their values; other bits don't matter.
    pub value: T,
}

impl<T: Copy + BitAnd<Output = T> + BitOr<Output = T> + Not<Output = T>> Bitmap<T> {
    /// Returns the register's value after the change.
    pub fn apply(self, register: T) -> T {
        register & !self.mask | self.value & self.mask
    }
}

/// Changes to one leaf and subleaf of CPUID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuidModifier {
    /// The leaf: EAX before the instruction.
    pub leaf: u32,
    /// The subleaf: ECX before the instruction; 0 where it doesn't matter.
    pub subleaf: u32,
    /// Whether the subleaf matters from now on.
    pub has_subleaf: bool,
    /// What becomes of its registers, in order.
    pub registers: Vec<(Register, Bitmap<u32>)>,
}

/// A change to one model-specific register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsrModifier {
    /// The register's number: ECX of RDMSR.
    pub index: u32,
    /// What becomes of it.
    pub bits: Bitmap<u64>,
}

/// A capability of KVM (`KVM_CAP_*`) that a template names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvmCapability {
    /// The machine can't be built without it.
    Needed(u32),
    /// The machine is to be built without it too. What every machine here needs can't be waived.
    Waived(u32),
}

impl fmt::Display for KvmCapability {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Needed(number) => write!(formatter, "{number}"),
            Self::Waived(number) => write!(formatter, "!{number}"),
        }
    }
}

/// Why a template can't be applied on this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// The host's KVM doesn't offer a leaf.
    #[error("this host has no CPUID leaf {leaf:#x}, subleaf {subleaf:#x}")]
    NoLeaf {
        /// The leaf.
        leaf: u32,
        /// The subleaf.
        subleaf: u32,
    },
    /// The vCPU doesn't have a model-specific register.
    #[error("this host has no model-specific register {index:#x}")]
    NoMsr {
        /// Its number.
        index: u32,
    },
}

impl CpuTemplate {
    /// Changes `host`, what the host's KVM offers.
    ///
    /// # Errors
    /// [`TemplateError::NoLeaf`]; some changes may have been made by then.
    pub fn apply_to_cpuid(&self, host: &mut [CpuidEntry]) -> Result<(), TemplateError> {
        for CpuidModifier { leaf, subleaf, has_subleaf, registers } in &self.cpuid {
            let (leaf, subleaf) = (*leaf, *subleaf);
            let entry = host
                .iter_mut()
                .find(|entry| entry.function == leaf && entry.index == subleaf)
                .ok_or(TemplateError::NoLeaf { leaf, subleaf })?;
            entry.has_index = *has_subleaf;
            for (register, bits) in registers {
                let register = entry.register_mut(*register);
                *register = bits.apply(*register);
            }
        }
        Ok(())
    }

    /// Returns the registers that change and their new values; `read` gives the current ones,
    /// `None` where there is no such register.
    ///
    /// # Errors
    /// [`TemplateError::NoMsr`], or what `read` failed with.
    pub fn msr_values<E: From<TemplateError>>(
        &self,
        mut read: impl FnMut(u32) -> Result<Option<u64>, E>,
    ) -> Result<Vec<crate::msrs::Msr>, E> {
        let mut changed: Vec<crate::msrs::Msr> = Vec::with_capacity(self.msrs.len());
        for MsrModifier { index, bits } in &self.msrs {
            if let Some(msr) = changed.iter_mut().find(|msr| msr.index == *index) {
                msr.value = bits.apply(msr.value);
                continue;
            }
            let value = read(*index)?.ok_or(TemplateError::NoMsr { index: *index })?;
            changed.push(crate::msrs::Msr { index: *index, value: bits.apply(value) });
        }
        Ok(changed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::msrs::Msr;

    fn entry(function: u32, index: u32) -> CpuidEntry {
        CpuidEntry {
            function,
            index,
            has_index: true,
            eax: 0xff,
            ebx: 0,
            ecx: u32::MAX,
            edx: 0x0f0f_0f0f,
        }
    }

    fn modifier(leaf: u32, subleaf: u32, register: Register, bits: Bitmap<u32>) -> CpuidModifier {
        CpuidModifier { leaf, subleaf, has_subleaf: true, registers: vec![(register, bits)] }
    }

    #[test]
    fn named_bits_of_the_named_register_change_and_no_others() {
        let mut entries = [entry(7, 0), entry(7, 1), entry(0xd, 1)];
        let template = CpuTemplate {
            cpuid: vec![
                modifier(7, 1, Register::Ecx, Bitmap { mask: 0xff, value: 0x81 }),
                modifier(7, 1, Register::Edx, Bitmap { mask: 1 << 31, value: u32::MAX }),
                modifier(7, 1, Register::Ecx, Bitmap { mask: 1, value: 0 }),
            ],
            ..CpuTemplate::default()
        };
        template.apply_to_cpuid(&mut entries).unwrap();
        let changed = CpuidEntry { ecx: 0xffff_ff80, edx: 0x8f0f_0f0f, ..entry(7, 1) };
        assert_eq!(entries, [entry(7, 0), changed, entry(0xd, 1)]);
    }

    #[test]
    fn leaf_that_the_host_lacks_is_an_error_that_names_it() {
        for (leaf, subleaf) in [(7, 2), (0x1d, 0)] {
            let template = CpuTemplate {
                cpuid: vec![modifier(leaf, subleaf, Register::Eax, Bitmap::default())],
                ..CpuTemplate::default()
            };
            assert_eq!(
                template.apply_to_cpuid(&mut [entry(7, 0)]),
                Err(TemplateError::NoLeaf { leaf, subleaf })
            );
        }
    }

    #[test]
    fn msr_is_read_once_and_every_change_sees_the_one_before() {
        let template = CpuTemplate {
            msrs: vec![
                MsrModifier { index: 0x10a, bits: Bitmap { mask: 0xf, value: 0x5 } },
                MsrModifier { index: 0x8b, bits: Bitmap { mask: u64::MAX, value: 7 << 32 } },
                MsrModifier { index: 0x10a, bits: Bitmap { mask: 0x4, value: 0 } },
            ],
            ..CpuTemplate::default()
        };
        let mut asked = Vec::new();
        let values = template.msr_values::<TemplateError>(|index| {
            asked.push(index);
            Ok(Some(0xaa))
        });
        let expected =
            [Msr { index: 0x10a, value: 0xa1 }, Msr { index: 0x8b, value: 7 << 32 }].to_vec();
        assert_eq!(values, Ok(expected));
        assert_eq!(asked, [0x10a, 0x8b]);
        assert_eq!(
            template.msr_values::<TemplateError>(|_| Ok(None)),
            Err(TemplateError::NoMsr { index: 0x10a })
        );
    }
}
