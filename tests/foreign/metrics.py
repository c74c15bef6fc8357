"""Reads pages of metrics as Prometheus' own Python client does. Arguments: their addresses."""

import sys
import urllib.request

from prometheus_client.parser import text_string_to_metric_families

for address in sys.argv[1:]:
    # Without a proxy, whatever the environment says.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://{address}/metrics", timeout=10) as answer:
        text = answer.read().decode("utf-8")
    families = list(text_string_to_metric_families(text))
    assert len(families) >= 15, f"{address}: {len(families)} families"
    samples = 0
    for family in families:
        assert family.type in ("counter", "gauge", "histogram"), family
        assert family.documentation, family
        assert family.samples, family
        samples += len(family.samples)
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert samples == len(lines), f"{address}: {samples} samples in {len(lines)} lines"
    print(f"{address}: {len(families)} families, {samples} samples")
