//! What the product promises while the machine and the network do their worst.

mod crash;
