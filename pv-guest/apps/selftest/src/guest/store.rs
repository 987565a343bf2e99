//! The store, from a guest that has one and from the initial domain, which has none.

extern crate alloc;

use core::time::Duration;

use pv_guest::store::{Error, Store, store};
use pv_guest::{boot, clock};

use super::tap::Tap;

/// How long a request may take.
const LIMIT: Duration = Duration::from_secs(10);

pub async fn run(tap: &mut Tap) {
    if boot::is_initial_domain() {
        tap.is(
            "the initial domain has no store",
            store().err(),
            Some(Error::NoStore),
        );
        return;
    }
    let result = match store() {
        Ok(store) => clock::timeout(LIMIT, use_it(&store)).await,
        Err(error) => Ok(Err(error)),
    };
    tap.is("the store is used", result, Ok(Ok(true)));
}

/// Makes requests of each kind; whether they have the results that they should.
async fn use_it(store: &Store) -> Result<bool, Error> {
    let mut watch = store.watch("data");
    let first = watch.next().await?;
    let count: u32 = store
        .transaction(async |requests| {
            requests.write("data/selftest", "41").await?;
            let number: u32 = requests.parse("data/selftest").await?;
            requests
                .write("data/selftest", alloc::format!("{}", number + 1))
                .await?;
            Ok(number + 1)
        })
        .await?;
    let fired = watch.next().await?;
    let value: u32 = store.parse("data/selftest").await?;
    store.remove("data/selftest").await?;
    let gone = store.read("data/selftest").await.is_err();
    Ok(first == "data" && fired == "data/selftest" && (count, value) == (42, 42) && gone)
}
