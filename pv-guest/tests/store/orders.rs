//! Orders of the toolstack.

use pv_guest::control::{End, Order, Orders};
use xenstore::wire::Kind;

use crate::harness::System;

const SHUTDOWN: &str = "/local/domain/5/control/shutdown\0";
const SYSRQ: &str = "/local/domain/5/control/sysrq\0";

/// Begins to listen, then has dom0 write.
fn order(path: &str, value: &str) -> (Order, Vec<u8>) {
    let mut system = System::new();
    let store = system.guest.store.clone();
    let task = system.guest.spawn(async move {
        let mut orders = Orders::new(store).await.unwrap();
        orders.next().await.unwrap()
    });
    system.settle();
    assert!(!task.is_finished());
    system.dom0(Kind::Write, format!("{path}{value}"));
    let order = system.finish(task);
    system.settle();
    (order, system.dom0(Kind::Read, path))
}

#[test]
fn an_order_to_end_is_acknowledged_by_clearing_it() {
    for (value, end) in [
        ("poweroff", End::PowerOff),
        ("halt", End::PowerOff),
        ("reboot", End::Reboot),
    ] {
        assert_eq!(order(SHUTDOWN, value), (Order::End(end), b"".to_vec()));
    }
}

#[test]
fn a_system_request_is_acknowledged_with_its_key() {
    assert_eq!(order(SYSRQ, "s"), (Order::SysRq('s'), b"".to_vec()));
}

#[test]
fn an_order_that_is_not_understood_is_left_where_it_is() {
    let unknown = Order::Unknown("suspend".to_owned());
    assert_eq!(order(SHUTDOWN, "suspend"), (unknown, b"suspend".to_vec()));
}

#[test]
fn what_the_domain_obeys_is_said_and_an_order_from_before_counts() {
    let mut system = System::new();
    system.dom0(Kind::Write, format!("{SHUTDOWN}reboot"));
    let store = system.guest.store.clone();
    let order = system.run(async move {
        let mut orders = Orders::new(store.clone()).await.unwrap();
        for feature in ["poweroff", "reboot", "sysrq"] {
            let path = format!("control/feature-{feature}");
            assert_eq!(store.parse::<u32>(&path).await, Ok(1));
        }
        orders.next().await.unwrap()
    });
    assert_eq!(order, Order::End(End::Reboot));
}

#[test]
fn an_order_that_cannot_be_acknowledged_is_obeyed() {
    let mut system = System::new();
    system.dom0(Kind::Write, format!("{SHUTDOWN}poweroff"));
    system.dom0(Kind::SetPermissions, format!("{SHUTDOWN}n0\0r5\0"));
    let store = system.guest.store.clone();
    let order = system.run(async move { Orders::new(store).await.unwrap().next().await });
    assert_eq!(order, Ok(Order::End(End::PowerOff)));
}
