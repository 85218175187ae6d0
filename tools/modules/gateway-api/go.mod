// The Gateway API's CRDs, pinned: `cluster build gateway-api` copies config/crd/standard out of this module.
// Nothing is compiled, so `go mod tidy` would drop the requirement: do not run it here.
module tools/gateway-api

go 1.26.8

require sigs.k8s.io/gateway-api v1.6.3
