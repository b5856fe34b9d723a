//! The virtual machine monitor: one process per VM, the only user of KVM.
