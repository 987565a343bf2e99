mod hostile;
mod negotiation;
mod offload;
mod pair;
mod random;
mod requests;
