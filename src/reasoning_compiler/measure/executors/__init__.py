"""Where programs are measured: here, or on devices behind TVM's RPC tracker."""
