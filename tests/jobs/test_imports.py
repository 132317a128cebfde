"""Ray reads part of its environment when it is imported, so checking a configuration must not import it."""

import subprocess
import sys


def test_checking_a_configuration_does_not_import_ray():
    modules = "jobs.cli, pipeline.config, pipeline.configuration.resolve, pipeline.measure.preflight"
    done = subprocess.run([sys.executable, "-c", f"import sys, {modules}; sys.exit('ray' in sys.modules)"], check=False)
    assert done.returncode == 0
