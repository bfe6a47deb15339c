"""The lab: an emulated KVM host. lab/run is the way in; docs/lab.md has the theory."""
