// The page at /_emulator/: shows the emulator's requests and load, and has a chat with its models.

import { Chat } from "./chat.js";
import { RequestDetail } from "./detail.js";
import { RequestList } from "./list.js";
import { Load } from "./load.js";
import { attempt, poll, retry } from "./polling.js";

const LOAD_MS = 1000;
const LIST_MS = 700;

const load = new Load();
const list = new RequestList();
const detail = new RequestDetail(list);
const chat = new Chat();

poll(() => load.refresh(), LOAD_MS);
await attempt(() => list.refresh()); // followAddress() needs the rows of the list
detail.followAddress();
poll(() => list.refresh(), LIST_MS);
retry(() => chat.loadModels());
