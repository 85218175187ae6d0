module sluice/tools/cluster

go 1.26
