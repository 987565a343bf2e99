//! The store as its clients see it.

mod domains;
mod harness;
mod hostile;
mod model;
mod pace;
mod precedence;
mod quotas;
mod random;
mod requests;
mod rings;
mod scaling;
mod transactions;
mod watches;
