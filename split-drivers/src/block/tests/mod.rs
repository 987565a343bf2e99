mod hostile;
mod negotiation;
mod pair;
mod random;
mod requests;
