// The page at /_emulator/: shows this server's requests and its load, and chats with its models.

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
await attempt(() => list.refresh()); // the list must have the row of a request that opens
detail.followAddress();
poll(() => list.refresh(), LIST_MS);
retry(() => chat.loadModels());
