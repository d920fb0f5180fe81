"""Dialog with the receipt of a deletion."""

from collections.abc import Callable

from nicegui import ui

from api.dashboard import kit, words
from api.dashboard.texts import tr
from api.dashboard.user import User

_ASK_SECONDS = 2.0


def show_receipt(user: User, id: str | None, leave: Callable[[], None]) -> None:
    """Shows the receipt of a deletion, updated until all files are deleted. `leave` is called when the user closes it;
    without a receipt, at once."""
    if id is None:
        leave()
        return

    async def update() -> None:
        receipt = await user.api.deletions.get(id)
        files = f"{words.several(receipt.objects, 'file')}, {words.size(receipt.bytes)}"
        if receipt.done_at is None:
            line.text = tr("The stored files are being deleted: {files} so far.", files=files)
        else:
            waiting.cancel()
            line.text = tr("Everything was deleted: {files}.", files=files)

    with kit.dialog(tr("Deleted")) as shown:
        shown.props("persistent")  # closing it otherwise would skip `leave`
        line = kit.write("").props("role=status")
        kit.facts({tr("Receipt"): id})
        waiting = ui.timer(_ASK_SECONDS, update)
        with kit.box("row end"):
            kit.button(tr("Close"), leave, kind="primary").props("autofocus")
    shown.open()
