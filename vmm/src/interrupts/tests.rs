//! On a real virtual machine of KVM's, without a vCPU.

use kvm_ioctls::Kvm;

use super::*;

fn router() -> Arc<InterruptRouter> {
    let vm = Kvm::new().unwrap().create_vm().unwrap();
    vm.create_irq_chip().unwrap();
    InterruptRouter::new(Arc::new(vm))
}

fn message(data: u32) -> MsiMessage {
    MsiMessage { address: 0xfee0_0000, data }
}

fn gsis(sender: &KvmMsiSender) -> Vec<u32> {
    sender.vectors.iter().map(|vector| vector.gsi).collect()
}

#[test]
fn vectors_that_come_and_go_leave_nothing_behind() {
    let router = router();
    let resident = router.msi_sender(3).unwrap();
    resident.route(0, message(0x20)).unwrap();
    for round in 0..1000 {
        let sender = router.msi_sender(4).unwrap();
        // One stays unbound.
        for vector in 0..3 {
            sender.route(vector, message(round << 8 | u32::from(vector))).unwrap();
        }
        let routes = router.lock().entries().len() - (PIC_PINS + IOAPIC_PINS) as usize;
        assert_eq!(routes, 4, "round {round}");
    }
    let table = router.lock();
    assert_eq!((table.messages.len(), table.free.len()), (7, 4));
    assert_eq!(table.messages[0], Some(message(0x20)));
    assert_eq!(table.messages.iter().flatten().count(), 1);
}

#[test]
fn kvm_lets_go_of_a_dropped_vectors_eventfd() {
    let router = router();
    let sender = router.msi_sender(1).unwrap();
    sender.route(0, message(0x30)).unwrap();
    let eventfd = sender.vectors[0].eventfd.try_clone().unwrap();
    let gsi = sender.vectors[0].gsi;
    assert!(router.vm.register_irqfd(&eventfd, gsi).is_err(), "KVM has it already");
    drop(sender);
    router.vm.register_irqfd(&eventfd, gsi).unwrap();
}

#[test]
fn given_back_interrupts_serve_again_with_their_new_message() {
    let router = router();
    let (first, second) = (router.msi_sender(2).unwrap(), router.msi_sender(2).unwrap());
    first.route(1, message(0x31)).unwrap();
    let freed = gsis(&first);
    drop(first);
    // More than was given back, and not in one piece with it.
    let third = router.msi_sender(3).unwrap();
    let mut all = [gsis(&second), gsis(&third)].concat();
    assert!(freed.iter().all(|gsi| all.contains(gsi)));
    all.sort_unstable();
    assert_eq!(all, (IOAPIC_PINS..IOAPIC_PINS + 5).collect::<Vec<_>>());
    assert_eq!(router.lock().messages.iter().flatten().count(), 0, "the old message is gone");
    third.route(0, message(0x32)).unwrap();
    // The same message for another function is told to KVM once more.
    drop(third);
    let fourth = router.msi_sender(3).unwrap();
    fourth.route(0, message(0x32)).unwrap();
    assert_eq!(router.lock().messages.iter().flatten().count(), 1);
}

#[test]
fn refused_function_takes_no_interrupt() {
    let router = router();
    let held: Vec<_> = (0..MAX_GSIS - IOAPIC_PINS).collect();
    let count = u16::try_from(held.len()).unwrap();
    let mut table = router.lock();
    let all = table.allocate(count).unwrap();
    assert!(matches!(table.allocate(1), Err(VmmError::TooManyDevices { .. })));
    table.free(all[..2].iter().copied());
    assert!(matches!(table.allocate(3), Err(VmmError::TooManyDevices { .. })));
    assert_eq!(table.free.len(), 2);
    let mut again = table.allocate(2).unwrap();
    again.sort_unstable();
    assert_eq!(again, all[..2]);
}

#[test]
fn unbound_vectors_send_nothing() {
    let router = router();
    let sender = router.msi_sender(1).unwrap();
    sender.signal(0);
    sender.signal(1);
    assert!(sender.vectors[0].eventfd.read().is_err(), "nothing was written");
    assert!(sender.route(1, message(0)).is_err());
}
