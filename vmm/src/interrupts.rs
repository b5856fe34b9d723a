//! Interrupts of the in-kernel irqchip: lines and message-signalled ones, all through irqfds.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use devices::{EventFdLine, MsiMessage, MsiSender};
use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER,
    KVM_IRQCHIP_PIC_SLAVE, KvmIrqRouting, kvm_irq_routing_entry,
    kvm_irq_routing_entry__bindgen_ty_1, kvm_irq_routing_irqchip, kvm_irq_routing_msi,
};
use kvm_ioctls::VmFd;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::error::VmmError;

/// How many input pins KVM's I/O APIC has.
const IOAPIC_PINS: u32 = 24;

/// How many of them the two 8259s share.
const PIC_PINS: u32 = 16;

/// How many global system interrupts there can be: KVM takes 4096 routes (`KVM_MAX_IRQ_ROUTES`), and
/// each pin of the 8259s is a second one for its number.
const MAX_GSIS: u32 = 4096 - PIC_PINS;

const TOO_MANY: VmmError = VmmError::TooManyDevices { what: "interrupts", max: MAX_GSIS as usize };

/// Owns the interrupt routing table of one VM.
pub struct InterruptRouter {
    vm: Arc<VmFd>,
    table: Mutex<Table>,
}

/// The global system interrupts past the I/O APIC's.
#[derive(Default)]
struct Table {
    /// The message of each, in order.
    messages: Vec<Option<MsiMessage>>,
    /// Those that belong to no vector any more.
    free: Vec<u32>,
}

impl InterruptRouter {
    /// Takes over the routing of `vm`, which has an in-kernel irqchip with KVM's default routes.
    pub fn new(vm: Arc<VmFd>) -> Arc<Self> {
        Arc::new(Self { vm, table: Mutex::default() })
    }

    /// Creates an edge-triggered line on pin `gsi` of the I/O APIC.
    ///
    /// # Errors
    /// [`VmmError`] when there is no eventfd, or KVM refuses it.
    pub fn line(&self, gsi: u32) -> Result<EventFdLine, VmmError> {
        let eventfd = new_eventfd()?;
        self.vm
            .register_irqfd(&eventfd, gsi)
            .map_err(|source| VmmError::kvm("KVM_IRQFD", source))?;
        Ok(EventFdLine::new(eventfd))
    }

    /// Creates the vectors of one MSI-X capable function, all unbound. Dropped, they give back what
    /// they had of KVM.
    ///
    /// # Errors
    /// [`VmmError`] when there are no more interrupts or eventfds.
    pub fn msi_sender(self: &Arc<Self>, vectors: u16) -> Result<Arc<KvmMsiSender>, VmmError> {
        // Eventfds first: if there's none left, no interrupt is lost.
        let eventfds = (0..vectors).map(|_| new_eventfd()).collect::<Result<Vec<_>, _>>()?;
        let gsis = self.lock().allocate(vectors)?;
        let vectors = gsis.into_iter().zip(eventfds).map(Vector::new).collect();
        Ok(Arc::new(KvmMsiSender { router: Arc::clone(self), vectors }))
    }

    /// Sends `message` whenever interrupt `gsi` is raised.
    fn route(&self, gsi: u32, message: MsiMessage) -> io::Result<()> {
        let mut table = self.lock();
        let slot = usize::try_from(gsi - IOAPIC_PINS)
            .ok()
            .and_then(|index| table.messages.get_mut(index))
            .ok_or(io::ErrorKind::InvalidInput)?;
        if *slot == Some(message) {
            return Ok(());
        }
        let before = slot.replace(message);
        let result = KvmIrqRouting::from_entries(&table.entries())
            .map_err(|error| io::Error::other(format!("{error:?}")))
            .and_then(|routing| self.vm.set_gsi_routing(&routing).map_err(io::Error::from));
        if result.is_err()
            && let Some(slot) = table.messages.get_mut((gsi - IOAPIC_PINS) as usize)
        {
            *slot = before;
        }
        result
    }

    /// Takes interrupts back. KVM keeps their routes until the next one is set: without an irqfd
    /// they do nothing.
    fn give_back(&self, vectors: &[Vector]) {
        for vector in vectors {
            if vector.registered.load(Ordering::Acquire)
                && let Err(error) = self.vm.unregister_irqfd(&vector.eventfd, vector.gsi)
            {
                // KVM lets go of it by itself when the eventfd is closed.
                log::warn!("can't take the irqfd off interrupt {}: {error}", vector.gsi);
            }
        }
        self.lock().free(vectors.iter().map(|vector| vector.gsi));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// Takes `count` interrupts without a message: given back ones first.
    fn allocate(&mut self, count: u16) -> Result<Vec<u32>, VmmError> {
        let reused = self.free.len().min(usize::from(count));
        let new = usize::from(count) - reused;
        let first = IOAPIC_PINS as usize + self.messages.len();
        let (Ok(start), Ok(end)) = (u32::try_from(first), u32::try_from(first + new)) else {
            return Err(TOO_MANY);
        };
        if end > MAX_GSIS {
            return Err(TOO_MANY);
        }
        self.messages.resize(self.messages.len() + new, None);
        let mut gsis = self.free.split_off(self.free.len() - reused);
        gsis.extend(start..end);
        Ok(gsis)
    }

    fn free(&mut self, gsis: impl Iterator<Item = u32>) {
        for gsi in gsis {
            if let Some(message) = self.messages.get_mut((gsi - IOAPIC_PINS) as usize) {
                *message = None;
                self.free.push(gsi);
            }
        }
    }

    /// Lists all routes: KVM replaces the whole table each time.
    fn entries(&self) -> Vec<kvm_irq_routing_entry> {
        let pics = (0..PIC_PINS).map(|pin| match pin {
            0..8 => irqchip_entry(pin, KVM_IRQCHIP_PIC_MASTER, pin),
            _ => irqchip_entry(pin, KVM_IRQCHIP_PIC_SLAVE, pin - 8),
        });
        let ioapic = (0..IOAPIC_PINS).map(|pin| irqchip_entry(pin, KVM_IRQCHIP_IOAPIC, pin));
        let messages = (IOAPIC_PINS..)
            .zip(&self.messages)
            .filter_map(|(gsi, message)| message.map(|message| msi_entry(gsi, message)));
        pics.chain(ioapic).chain(messages).collect()
    }
}

fn irqchip_entry(gsi: u32, irqchip: u32, pin: u32) -> kvm_irq_routing_entry {
    kvm_irq_routing_entry {
        gsi,
        type_: KVM_IRQ_ROUTING_IRQCHIP,
        u: kvm_irq_routing_entry__bindgen_ty_1 {
            irqchip: kvm_irq_routing_irqchip { irqchip, pin },
        },
        ..Default::default()
    }
}

fn msi_entry(gsi: u32, message: MsiMessage) -> kvm_irq_routing_entry {
    let [a, b, c, d, e, f, g, h] = message.address.to_le_bytes();
    let msi = kvm_irq_routing_msi {
        address_lo: u32::from_le_bytes([a, b, c, d]),
        address_hi: u32::from_le_bytes([e, f, g, h]),
        data: message.data,
        ..Default::default()
    };
    kvm_irq_routing_entry {
        gsi,
        type_: KVM_IRQ_ROUTING_MSI,
        u: kvm_irq_routing_entry__bindgen_ty_1 { msi },
        ..Default::default()
    }
}

/// The MSI-X vectors of one PCI function, delivered by KVM without a system call of the guest's.
pub struct KvmMsiSender {
    router: Arc<InterruptRouter>,
    vectors: Vec<Vector>,
}

struct Vector {
    gsi: u32,
    eventfd: EventFd,
    /// Whether KVM has the eventfd: only then a signal arrives.
    registered: AtomicBool,
    /// Whether KVM has the message.
    bound: AtomicBool,
}

impl Vector {
    fn new((gsi, eventfd): (u32, EventFd)) -> Self {
        Self { gsi, eventfd, registered: AtomicBool::new(false), bound: AtomicBool::new(false) }
    }
}

impl Drop for KvmMsiSender {
    fn drop(&mut self) {
        self.router.give_back(&self.vectors);
    }
}

impl MsiSender for KvmMsiSender {
    fn route(&self, vector: u16, message: MsiMessage) -> io::Result<()> {
        let vector = self.vectors.get(usize::from(vector)).ok_or(io::ErrorKind::InvalidInput)?;
        // Unbound until the new route stands: if KVM refuses it, the old message must not be sent.
        vector.bound.store(false, Ordering::Release);
        if !vector.registered.load(Ordering::Acquire) {
            // Registered only now, so that an unused vector costs KVM nothing.
            self.router.vm.register_irqfd(&vector.eventfd, vector.gsi)?;
            vector.registered.store(true, Ordering::Release);
        }
        self.router.route(vector.gsi, message)?;
        vector.bound.store(true, Ordering::Release);
        Ok(())
    }

    fn signal(&self, vector: u16) {
        if let Some(vector) = self.vectors.get(usize::from(vector))
            && vector.bound.load(Ordering::Acquire)
        {
            // It can fail only when 2^64 - 2 signals are unseen: one is pending then already.
            let _ = vector.eventfd.write(1);
        }
    }
}

fn new_eventfd() -> Result<EventFd, VmmError> {
    EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)
        .map_err(|source| VmmError::os("create an eventfd", source))
}

#[cfg(test)]
mod tests;
