mod hostile;
mod negotiation;
mod offload;
mod pair;
mod queues;
mod random;
mod requests;
mod sources;
