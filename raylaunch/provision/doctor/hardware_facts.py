"""What the kernel of a host knows of its GPUs and RDMA devices, whether a driver works or not."""

from dataclasses import dataclass

from raylaunch.provision.doctor.probe_facts import Section


@dataclass(frozen=True, slots=True)
class PciGpu:
    """A GPU of NVIDIA's on the PCI bus, whether its driver knows it or not."""

    device: int
    """PCI device id."""
    iommu: str
    """Type of its IOMMU group: "identity" passes addresses through, "DMA" and "DMA-FQ" translate; "" without one."""


@dataclass(frozen=True, slots=True)
class Hardware:
    """What the kernel knows of a host's devices."""

    gpus: tuple[PciGpu, ...] = ()
    rdma: tuple[str, ...] = ()
    """InfiniBand and RoCE devices, as "mlx5_0 (InfiniBand)"."""


def parse_hardware(section: Section) -> Hardware:
    """Section `hardware`: a line for each GPU on the PCI bus and for each RDMA device."""
    gpus, rdma = [], []
    for line in section.text.splitlines():
        match line.split():
            case ["gpu", device, *iommu]:
                gpus.append(PciGpu(int(device, 16), iommu[0] if iommu else ""))
            case ["rdma", name, *link]:
                rdma.append(f"{name} ({link[0] if link else 'link unknown'})")
    return Hardware(tuple(gpus), tuple(rdma))
