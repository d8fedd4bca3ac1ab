"""Asset checks of a protected drop; those that could lose or leak a photo block what follows."""

from dagster import AssetCheckExecutionContext, AssetCheckResult, asset_check

from assets.drop_plan import read_current, state_url
from assets.protected_catalog import protected_catalog
from assets.verification import verify_target
from resources.commits import ProtectedTable
from resources.places import Places


@asset_check(asset=protected_catalog, blocking=True, description="Rows in = protected + skipped + quarantined.")
def every_photo_has_a_status(places: Places) -> AssetCheckResult:
    """Counts the rows of every drop against its catalog."""
    table = ProtectedTable(places.protected_table())
    wrong = {}
    for drop in table.drops():
        catalog = read_current(state_url(table.url), drop)
        rows = sum(file.rows for file in table.live_files(drop).values())
        if catalog is None or catalog.photos != rows:
            wrong[drop] = f"{catalog.photos if catalog else 'unknown'} photos, {rows} rows"
    return AssetCheckResult(passed=not wrong, metadata={"drops that do not add up": wrong})


@asset_check(
    asset=protected_catalog,
    blocking=True,
    description="Every published photo has its recorded sha256; lossless ones their budget.",
)
def every_output_is_as_recorded(context: AssetCheckExecutionContext, places: Places) -> AssetCheckResult:
    """Re-hashes what is published, and measures lossless budgets again."""
    result = verify_target(places.protected_table())
    for finding in result.findings[:20]:
        context.log.error(f"{finding.kind} in drop {finding.drop}: {finding.detail}")
    return AssetCheckResult(
        passed=result.passed,
        metadata={
            "photos": result.photos,
            "findings": len(result.findings),
            "budgets measured again": result.budgets_checked,
        },
    )
